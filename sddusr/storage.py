"""Places: local paths and URIs of object stores (s3://, gs://, ...) behind one set of helpers."""

import json
import os
import posixpath
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pyarrow import fs

from sddusr.local_files import Content, fill, write_local

_MAX_NAME_BYTES = 240
"""Of a picture's name: what is written for it adds a few letters, and file systems take 255."""


def resolve(place: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a place, and its path there.

    Raises:
        ValueError: a URI scheme that pyarrow.fs does not know.
    """
    if is_local(place):
        return fs.LocalFileSystem(), os.path.abspath(place)
    try:
        return fs.FileSystem.from_uri(to_uri(place))
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(
            f"{place}: not a place that can be read ({type(error).__name__}); "
            "give a local path or a URI such as s3://bucket/folder"
        ) from error


def to_uri(place: str | Path) -> str:
    """A place as pyarrow.fs and Ray read it: our names are plain, theirs are percent-encoded."""
    if is_local(place) or str(place).startswith(("fsspec+", "hf://")):  # pyarrow decodes neither
        return str(place)
    path, query = _split_query(place)
    scheme, mark, rest = path.partition("://")
    host, slash, names = rest.partition("/")
    return scheme + mark + host + slash + quote(names) + query


def is_local(place: str | Path) -> bool:
    return "://" not in str(place)


def absolute(place: str | Path) -> str:
    """A place that means the same in another working folder, without a trailing slash."""
    plain = str(place).removeprefix("file://")
    if is_local(plain):
        return os.path.abspath(os.path.expanduser(plain))
    return plain.rstrip("/")


def join(place: str | Path, *names: str) -> str:
    """Names of our own below a place; names from an index go through `member`.

    Raises:
        ValueError: a name with a question mark below a URI, where it would begin the query.
    """
    for name in names:
        if "?" in name and not is_local(place):
            raise ValueError(
                f"{place}: the name {name!r} cannot be used: a question mark begins the options "
                "of a URI; rename it"
            )
    path, query = _split_query(place)
    return posixpath.join(path, *names) + query


def name(place: str | Path) -> str:
    """The last name of a place, without the query of a URI."""
    return posixpath.basename(_split_query(place)[0].rstrip("/"))


def parent(place: str | Path) -> str:
    """The folder that a place lies in, with the query of a URI; a bucket for the bucket itself."""
    path, query = _split_query(place)
    folder = posixpath.dirname(path.rstrip("/"))
    return (path if is_local(folder) and not is_local(place) else folder) + query


def relative(place: str | Path, root: str | Path) -> str:
    """A file's name below `root`, or its own name where it lies elsewhere or `root` is empty.

    It holds no credentials, since a URI's user and query are left out.
    """
    path, folder = _split_query(place)[0], posixpath.join(_split_query(root)[0], "")
    return path.removeprefix(folder) if folder and path.startswith(folder) else name(place)


def _split_query(place: str | Path) -> tuple[str, str]:
    """A place without its query; the query with its question mark, empty where there is none."""
    if is_local(place):
        return str(place), ""
    path, mark, query = str(place).partition("?")
    return path, mark + query


def member(root: str | Path, name: str) -> str:
    """A file below `root` whose name was read from an index.

    Raises:
        ValueError: the name, or a symbolic link on its way, leads out of `root`; or see `join`.
    """
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise ValueError(f"{root}: refused {name!r}, need a plain name inside the folder")
    if is_local(root):
        way = [join(root, *parts[: i + 1]) for i in range(len(parts))]
        has_link = any(map(os.path.islink, way))  # resolving is slow, and an index is long
        if has_link and not Path(way[-1]).resolve().is_relative_to(Path(root).resolve()):
            raise ValueError(f"{root}: refused {name!r}, a link that leads out of the folder")
    return join(root, *parts)


def check_name(name: str) -> None:
    """A name that can become the name of a file of ours, here and in an object store.

    Raises:
        ValueError: it holds a slash, a colon or a control character, or is `.` or `..`.
    """
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"the name {name[:20]!r}... has more than {_MAX_NAME_BYTES} bytes; rename it"
        )
    is_bad = any(char in "/\\:" or ord(char) < 32 or ord(char) == 127 for char in name)
    if is_bad or name in ("", ".", ".."):
        raise ValueError(
            f"the name {name!r} cannot be used: no slash, colon or control character; rename it"
        )


def exists(place: str | Path) -> bool:
    return info(place).type != fs.FileType.NotFound


def info(place: str | Path) -> fs.FileInfo:
    """Type, size and time of change; an absent place has the type `NotFound`."""
    system, path = resolve(place)
    return system.get_file_info(path)


def list_files(place: str | Path, kind: fs.FileType = fs.FileType.File) -> dict[str, str]:
    """Base name -> place of the files (or folders) right below a folder, sorted by name.

    A link to what is not there counts as a file, so that whoever reads it finds out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a name that is not UTF-8, or that `join` refuses.
    """
    if is_local(place):
        names = _list_local(os.path.abspath(place), kind)
        return {name: join(place, name) for name in names}
    system, path = resolve(place)
    if system.get_file_info(path).type != fs.FileType.Directory:
        raise FileNotFoundError(f"{place}: no such folder")
    found = system.get_file_info(fs.FileSelector(path))
    names = sorted(item.base_name for item in found if item.type == kind)
    return {name: join(place, name) for name in names}


def file_sizes(folder: str | Path) -> dict[str, int]:
    """Base name -> bytes of the files right below a folder, by one listing."""
    system, path = resolve(folder)
    found = system.get_file_info(fs.FileSelector(path))
    return {item.base_name: item.size for item in found if item.type == fs.FileType.File}


def _list_local(folder: str, kind: fs.FileType) -> list[str]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder")
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if _is_of_kind(entry, kind)]
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{folder}: the name {os.fsencode(name)!r} is not UTF-8; rename the file"
            ) from error
    return sorted(found)


def _is_of_kind(entry: "os.DirEntry[str]", kind: fs.FileType) -> bool:
    if kind == fs.FileType.Directory:
        return entry.is_dir()
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def list_names(folder: str | Path) -> list[str]:
    """Names of all that lies right below a folder, of whatever kind, sorted."""
    system, path = resolve(folder)
    return sorted(item.base_name for item in system.get_file_info(fs.FileSelector(path)))


def list_folders(place: str | Path) -> dict[str, str]:
    """Base name -> place of the folders right below a folder, sorted by name."""
    return list_files(place, fs.FileType.Directory)


def open_file(place: str | Path) -> Any:
    """A seekable pyarrow file for reading.

    Raises:
        FileNotFoundError: no such file.
    """
    system, path = resolve(place)
    if system.get_file_info(path).type != fs.FileType.File:
        is_dangling = is_local(place) and os.path.islink(place)
        what = (
            f"a link to {os.readlink(place)}, which is not there" if is_dangling else "no such file"
        )
        raise FileNotFoundError(f"{place}: {what}")
    return system.open_input_file(path)


def read_bytes(place: str | Path) -> bytes:
    with open_file(place) as file:
        return file.read()


def read_json(place: str | Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: not JSON, or a key twice in an object, of which one would be lost.
    """
    try:
        return json.loads(read_bytes(place), object_pairs_hook=_with_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON ({error}); make it anew") from error


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def remove(place: str | Path) -> None:
    """Delete a file, if it is there."""
    system, path = resolve(place)
    if system.get_file_info(path).type == fs.FileType.File:
        system.delete_file(path)


def remove_folder(folder: str | Path) -> None:
    """Delete a folder and all that is in it."""
    system, path = resolve(folder)
    system.delete_dir(path)


def write_atomic(place: str | Path, content: Content, *, private: bool = False) -> None:
    """Write a file so that no reader ever sees half of it; missing folders are made.

    Locally: a temporary name in the same folder, fsync, rename. In an object store an object
    appears when its upload closes, even where an exception closes it. So the content is complete on
    this side before its upload starts, and one call uploads it: a signal is raised after that call.

    Args:
        private: a local file that only its owner reads, since there are credentials in it.

    Raises:
        OSError: with path, needed and free bytes when the disk is full; nothing is left behind.
    """
    if is_local(place):
        write_local(Path(os.path.abspath(place)), content, 0o600 if private else 0o666)
        return
    system, path = resolve(place)
    with tempfile.NamedTemporaryFile() as buffer:
        fill(buffer, content)
        buffer.flush()
        fs.copy_files(
            buffer.name,
            path,
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=system,
        )
