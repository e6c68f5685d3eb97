/** What goes into a support bundle, and under which name; nothing here reads. */
import { type Json, type KubeObject } from "./kube-objects.ts";
import { encodeOutput } from "./output.ts";
import { redactObject, redactText } from "./redaction.ts";
import { type TarFile } from "./tar.ts";

/** Objects of one kind, or why they are not there. */
export type Collected = {
  readonly plural: string;
  readonly objects: readonly KubeObject[];
  readonly missing?: string;
};

export type CollectedLog = {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
  /** Of the container's life before this one. */
  readonly previous: boolean;
  readonly text: string;
};

export type Bundle = {
  /** The folder that all is in. */
  readonly root: string;
  readonly madeAt: string;
  readonly ownVersion: string;
  readonly collected: readonly Collected[];
  readonly logs: readonly CollectedLog[];
  /** `doctor -o wide`, and the same for programs. */
  readonly doctor: { readonly text: string; readonly report: unknown };
  /** `faults -o wide`. */
  readonly faults: string;
  /** What could not be had, besides `missing` above. */
  readonly troubles: readonly string[];
};

/** Everything redacted; the first file says what is in it and what is not. */
export function listBundleFiles(bundle: Bundle): readonly TarFile[] {
  const { root, collected, logs, doctor, faults } = bundle;
  const objects = collected.flatMap(({ plural, objects: all }) =>
    all.map((object) => ({
      path: `${root}/objects/${plural}/${nameFile(object)}.yaml`,
      content: `${encodeOutput(redactObject(object as unknown as Json), "yaml")}\n`,
    })),
  );
  const texts = logs.map(({ namespace, pod, container, previous, text }) => ({
    path: `${root}/logs/${namespace}/${pod}/${container}${previous ? ".previous" : ""}.log`,
    content: redactText(text),
  }));
  return [
    { path: `${root}/README.txt`, content: writeContents(bundle) },
    { path: `${root}/doctor.txt`, content: redactText(doctor.text) },
    { path: `${root}/doctor.json`, content: `${encodeOutput(redactObject(doctor.report as Json), "json")}\n` },
    { path: `${root}/faults.txt`, content: redactText(faults) },
    ...objects,
    ...texts,
  ];
}

const nameFile = ({ metadata }: KubeObject): string =>
  metadata.namespace === undefined ? metadata.name : `${metadata.namespace}/${metadata.name}`;

function writeContents({ madeAt, ownVersion, collected, logs, troubles }: Bundle): string {
  const counts = collected.map(({ plural, objects, missing }) =>
    missing === undefined ? `  ${plural}: ${objects.length}` : `  ${plural}: not there (${redactText(missing)})`,
  );
  const lines = [
    "Support bundle of Twinrun",
    `made ${madeAt} by kubectl-twinrun ${ownVersion}`,
    "",
    "Secrets were not read. Passwords, tokens, keys, cloud-init, and the environment of containers were taken out, as far as",
    "they can be told by their names and forms. Look through it before you send it.",
    "",
    "doctor.txt, doctor.json   what doctor found",
    "faults.txt                what failed of the protected VMs",
    "objects/KIND/             objects as the API server has them",
    `logs/                     ${logs.length} logs of containers`,
    "",
    "objects:",
    ...counts,
    ...(troubles.length === 0
      ? []
      : ["", "could not be had:", ...troubles.map((trouble) => `  ${redactText(trouble)}`)]),
  ];
  return `${lines.join("\n")}\n`;
}
