"""Renders the Helm chart with Helm, and compares it with the Kubernetes manifests.

``python check-helm.py HELM KUBECTL VALIDATE`` takes the three programs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART, MANIFESTS = ROOT / "deploy/helm", ROOT / "deploy/kubernetes"
#: Everything that has a switch, switched.
OTHER = """
image: {repository: registry.example.com/other, tag: "9"}
secretName: other
modelKeys: [OPENAI_API_KEY, ANTHROPIC_API_KEY]
autoscaling: {enabled: false}
worker: {replicas: 7}
serve: {replicas: 5}
flower: {enabled: false}
ingress: {enabled: true, className: nginx, host: d.example.com, tlsSecretName: cert, annotations: {a.example/b: "1"}}
programs: |
  import dspex

  qa = dspex.Program("qa", "question -> answer")
"""


def main(helm: str, kubectl: str, validate: str) -> None:
    """Exit with what differs."""
    output([helm, "lint", "--strict", "--quiet", str(CHART)])
    ours = rendered(helm)
    theirs = by_name(output([kubectl, "kustomize", str(MANIFESTS)]))
    theirs |= by_name(output([kubectl, "kustomize", str(MANIFESTS / "programs")]))
    del theirs["Namespace dspex"]  # helm install --create-namespace
    programs = {name for name in theirs if "programs" in name}
    differ = sorted((ours.keys() ^ theirs.keys()) - programs)
    differ += [name for name in ours.keys() & theirs.keys() if plain(ours[name]) != plain(theirs[name])]
    if differ:
        sys.exit(f"the chart and deploy/kubernetes differ in {', '.join(differ)}")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        values.write(OTHER)
        values.flush()
        other = rendered(helm, "--values", values.name)
    if wrong := list(faults(other)):
        sys.exit(f"the chart with other values: {', '.join(wrong)}")
    for found in (ours, other):
        fits(validate, [manifest for manifest in found.values() if "keda.sh" not in manifest["apiVersion"]])
    unknown = [helm, "template", str(CHART), "--set", "worker.replica=3"]
    if subprocess.run(unknown, capture_output=True, check=False).returncode == 0:
        sys.exit("values.schema.json accepts a value that the chart does not read")


def faults(found: dict[str, Any]) -> Iterator[str]:
    """What is not as the other values say."""
    worker, job = (found[name]["spec"]["template"]["spec"]["containers"][0]
                   for name in ("Deployment worker", "Job deploy-programs"))  # fmt: skip
    names = [variable["name"] for variable in worker["env"]]
    expected = {
        "replicas of workers": found["Deployment worker"]["spec"].get("replicas") == 7,
        "replicas of gateways": found["Deployment serve"]["spec"]["replicas"] == 5,
        "the image": {worker["image"], job["image"]} == {"registry.example.com/other:9"},
        "the keys of models": names[-2:] == ["OPENAI_API_KEY_FILE", "ANTHROPIC_API_KEY_FILE"],
        "the programs": "qa = dspex.Program" in found["ConfigMap programs"]["data"]["programs.py"],
        "the host": found["Ingress serve"]["spec"]["rules"][0]["host"] == "d.example.com",
        "what is off": not {"Deployment flower", "ScaledObject worker"} & found.keys(),
        "the secret": "secretName: dspex" not in yaml.safe_dump_all(found.values()),
    }
    return (name for name, holds in expected.items() if not holds)


def rendered(helm: str, *options: str) -> dict[str, Any]:
    """The chart's objects."""
    return by_name(output([helm, "template", "dspex", str(CHART), *options]))


def fits(validate: str, manifests: list[Any]) -> None:
    """Exit unless the objects fit the schema of Kubernetes."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(manifests, file)
        file.flush()
        output([validate, "--strict", "--quiet", file.name])


def by_name(text: str) -> dict[str, Any]:
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(text) if each}


def plain(manifest: dict[str, Any]) -> str:
    """An object as text, without its place and what says when Helm applies it; kustomize adds blank lines to texts."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in ("namespace", "annotations")}
    return re.sub(r"(\\n|\s)+", " ", json.dumps({**manifest, "metadata": metadata}, sort_keys=True))


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
