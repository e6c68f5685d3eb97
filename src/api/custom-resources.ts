/** Every custom resource there is: what CRDs, access rules and documentation are generated from. */
import { type CustomResource } from "./custom-resource.ts";
import { guestPairResource } from "./guest-pair.ts";
import { protectedVmResource } from "./protected-vm.ts";

export const customResources: readonly CustomResource[] = [protectedVmResource, guestPairResource];
