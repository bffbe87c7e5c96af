"""The documents of a shard: what each says, and which photo it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from locdiffusion.photos.names import extension, match_documents, stem
from locdiffusion.photos.sidecar import Sidecar, read_sidecar
from locdiffusion.photos.tar import Member


def telling(names: Sequence[str], documents: Mapping[str, Sidecar]) -> str:
    """Returns the first document that knows a position, or else estimates it, or else the first."""
    known = (name for name in names if documents[name].known)
    estimated = (name for name in names if documents[name].position)
    return next(known, None) or next(estimated, names[0])


def joined(names: Sequence[str], documents: Mapping[str, Sidecar]) -> Sidecar:
    """Joins documents about one photo: the telling one, with times and fields of the others."""
    sidecar = documents[telling(names, documents)]
    for name in names:
        sidecar = sidecar.completed_by(documents[name])
    return sidecar


@dataclass
class Documents:
    """Documents met so far. Only what they say is kept, not their bytes.

    Attributes:
        said: What each document says, by its name.
        beside: Names of those that stood beside their photo.
        late: What the others say, by the key of the photo, if nearer; once all are matched.
        unused: Names of those that are about no photo; once all are matched.
        problems: What is wrong with each document about a photo that is not understood.
        keep: Names of fields that are taken along.
    """

    said: dict[str, Sidecar] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    late: dict[str, Sidecar] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    keep: Sequence[str] = ()

    def add(self, member: Member) -> None:
        """Reads a document; one that is stored twice must say the same again."""
        name = member.name
        if member.data is None:
            sidecar = Sidecar(problem=member.problem[1] if member.problem else name)
        else:
            sidecar = read_sidecar(name, member.data, self.keep)
        if self.said.setdefault(name, sidecar) != sidecar:
            why = f"{name} is stored twice and says two things; remove one"
            self.said[name] = Sidecar(problem=why)

    def match(
        self,
        keys: Mapping[str, str],
        lacking: Iterable[str],
        siblings: Sequence[str] = (),
        load: Callable[[str], Mapping[str, Sidecar]] = lambda url: {},
    ) -> None:
        """Matches the documents that did not stand beside their photo.

        Args:
            keys: Keys of all photos, by name.
            lacking: Names of the photos for which no position is known.
            siblings: Other parts of the same export, the nearest first. They are asked for
                documents of photos that have none here.
            load: Function from a part to all its documents.
        """
        elsewhere = [name for name in self.said if name not in self.beside]
        lacking = dict.fromkeys(lacking)
        found = match_documents(keys if elsewhere else lacking, self.said)
        used = self.beside.union(*found.values())
        self.unused = [name for name in elsewhere if name not in used]
        self.problems = [problem for name in sorted(used) if (problem := self.said[name].problem)]
        for photo, names in found.items():
            name = telling(names, self.said)
            if photo in lacking or name not in self.beside:  # a nearer one than that beside it
                self.late[keys[photo]] = joined(names, self.said)
        lacking = [photo for photo in lacking if photo not in found]
        for url in siblings:
            if not lacking:
                break
            documents = load(url)
            found = match_documents(lacking, documents)
            for photo, names in found.items():
                self.late[keys[photo]] = joined(names, documents)
                said = (documents[name].problem for name in names)
                self.problems += filter(None, said)
            lacking = [photo for photo in lacking if photo not in found]

    @property
    def alone(self) -> list[str]:
        """Documents `NAME.json` that have a position and are about no photo."""
        with_position = (name for name in self.unused if self.said[name].known)
        return [name for name in with_position if not extension(stem(name))]
