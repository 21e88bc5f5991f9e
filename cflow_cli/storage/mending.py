"""A damaged manifest or config, made again from what else a run folder holds; and what is whole in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cflow_cli.errors import UserError
from cflow_cli.storage import checkpoints, digests, manifests, parts, reader
from cflow_cli.storage.files import write_text
from cflow_cli.storage.parts import Part
from cflow_cli.storage.tables import TABLES


def is_needed(folder: Path) -> bool:
    """Whether a folder holds a run whose manifest or config cannot be used as it is."""
    if not manifests.is_run(folder) and not checkpoints.paths(folder):
        return False
    try:
        reader.read_config(folder, manifests.read(folder))
    except UserError:
        return True
    return False


def mend(folder: Path) -> list[str]:
    """Make the manifest and the config of a run again where they are damaged; the caller holds the folder's lock.

    A checkpoint holds both as they were when it was written, and which parts there were; without a checkpoint,
    the config says enough of a run that begins anew.

    Returns
    -------
    list of str
        Sentences on what was damaged and what was done; none where all was well.

    Raises
    ------
    UserError
        When there is nothing to make them from.
    """
    if not is_needed(folder):
        return []
    notes = []
    try:
        manifest = manifests.read(folder)
    except UserError as error:
        manifest, source = _made_again(folder)
        manifest["reason"] = f"its {manifests.NAME} was made again from {source}"
        manifests.write(folder, manifest)
        notes.append(f"{error}; made again from {source}")
    try:
        reader.read_config(folder, manifest)
    except UserError as error:
        found = next((c for c in _good(folder) if _knows(manifest, _config_in(c))), None)
        if found is None:
            raise UserError(
                f"{folder / reader.CONFIG} is not what the run was begun with, and no checkpoint can be read that "
                "has that; bring it back from a copy, or start another run"
            ) from error
        write_text(folder / reader.CONFIG, _config_in(found))
        notes.append(f"{folder / reader.CONFIG} was damaged or changed; taking the one in {found.path}")
    return notes


def _made_again(folder: Path) -> tuple[dict[str, Any], str]:
    """A manifest, and from what it was made."""
    newest = next(_good(folder), None)
    found: dict[str, Part] = {}
    if newest is not None:
        position = newest.header["storage"]
        manifest, source = dict(position["manifest"]), str(newest.path)
        found = parts.listed(manifest) or {}
    else:
        manifest, source = _from_config(folder), f"{folder / reader.CONFIG} and its tables"
    parts.settle(folder, found)
    known = {}
    for table in TABLES:
        for name in parts.on_disk(folder, table):
            # What the checkpoint knows is held against its digest later; the rest against the checksums of its pages.
            try:
                known[name] = found.get(name) or parts.describe(folder / name)
            except Exception as error:
                raise parts.damage(folder / name, " ".join(str(error).split())) from error
    merged_since = any(name not in found and len(Path(name).stem.split("-")) > 2 for name in known)
    # A part that is missing is found out where its rows are wanted.
    now = known if merged_since else found | known
    manifest["parts"] = {name: vars(part) for name, part in now.items()}
    return {**manifest, "status": "interrupted"}, source


def _from_config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / reader.CONFIG).read_text(encoding="utf-8"))
        kept = ("name", "lr", "steps", "seed", "dtype")
        return {key: config[key] for key in kept if config.get(key) is not None}
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} has no {manifests.NAME} that can be read, no checkpoint and no {reader.CONFIG} to make it "
            "again from; remove the folder and run again"
        ) from error


def _good(folder: Path) -> Iterator[checkpoints.Checkpoint]:
    for path in reversed(checkpoints.paths(folder)):
        try:
            yield checkpoints.load(path)
        except UserError:
            continue


def _config_in(checkpoint: checkpoints.Checkpoint) -> str:
    return checkpoint.header["storage"]["config"] or ""


def _knows(manifest: Mapping[str, Any], config: str) -> bool:
    known = manifest.get("config_sha256")
    return bool(config) and (known is None or digests.of_text(config) in known)


# --- what is whole ---------------------------------------------------------------------------------


def faults(folder: Path) -> list[str]:
    """What is damaged or missing in a run folder: a sentence for each file; none where all is what was written."""
    found = _faults(folder)
    # What a run that goes on has merged or removed while it was looked at is no fault.
    again = _faults(folder) if found else []
    return [fault for fault in found if fault in again]


def _faults(folder: Path) -> list[str]:
    try:
        manifest = manifests.read(folder)
        listed = parts.listed(manifest)
    except UserError as error:
        return [str(error)]
    found = []
    try:
        reader.read_config(folder, manifest)
    except UserError as error:
        found.append(str(error))
    if listed is None:
        found.append(f"{folder / manifests.NAME} lists no parts, so nothing is known of the tables")
    found += part_faults(folder, listed or {})
    found += file_faults(folder, manifest)
    for path in checkpoints.paths(folder):
        try:
            checkpoints.load(path)
        except UserError as error:
            found.append(str(error))
    return found


def part_faults(folder: Path, found: Mapping[str, Part]) -> list[str]:
    """The same of some Parquet parts alone."""
    faults = []
    for name, part in found.items():
        try:
            parts.check(folder, name, part)
        except FileNotFoundError:
            faults.append(str(parts.damage(folder / name, "it is missing")))
        except UserError as error:
            faults.append(str(error))
    return faults


def file_faults(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The same of the files whose digests are in the manifest: those of a kernel."""
    faults = []
    for name, digest in (manifest.get("files") or {}).items():
        path = folder / name
        if not path.is_file():
            faults.append(str(parts.damage(path, "it is missing")))
        elif digests.of_file(path) != digest:
            faults.append(str(parts.damage(path, "it was changed after it was written")))
    return faults
