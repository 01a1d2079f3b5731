// Checks KEDA's objects of a file against the schemas of its resource definitions.
import fs from "node:fs";
import yaml from "js-yaml";

for (const given of yaml.loadAll(fs.readFileSync(process.argv[2], "utf8"))) {
  const kinds = await import(`@kubernetes-models/keda/${given.apiVersion}/${given.kind}`);
  new kinds[given.kind](given).validate();
}
