/** Every custom resource there is: what CRDs, access rules and documentation are generated from. */
import { type CustomResource } from "./custom-resource.ts";
import { guestPairResource } from "./guest-pair.ts";
import { protectedVmResource } from "./protected-vm.ts";
import { splitSitePairResource } from "./split-site-pair.ts";

export const customResources: readonly CustomResource[] = [
  protectedVmResource,
  guestPairResource,
  splitSitePairResource,
];
