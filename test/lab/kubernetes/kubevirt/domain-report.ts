/** What virt-launcher of the lab says about its domain: libvirt's words for state and reason, `none` before and `ended` after. */
export type DomainReport = { readonly state: string; readonly reason: string };
