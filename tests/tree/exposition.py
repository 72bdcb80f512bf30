# SPDX-License-Identifier: GPL-2.0-or-later
"""A strict reader of Prometheus' text exposition format 0.0.4.

It refuses what Prometheus would refuse, what `promtool check metrics` complains about, and what the format leaves open but no
family of lcfs needs: blank lines, other comments, timestamps, samples without HELP and TYPE.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import attrs

KINDS = {"counter", "gauge", "histogram"}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

_METRIC = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)  # Prometheus keeps the colon for rules of its users
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"', re.ASCII)
_HELP_TEXT = re.compile(r"(?:[^\\\n]|\\[\\n])*")
_VALUE = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|Inf)|NaN", re.ASCII)

_ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
_OTHER_UNITS = {
    **dict.fromkeys(("minutes", "hours", "days", "weeks"), "seconds"),
    **dict.fromkeys(("kelvins", "fahrenheit"), "celsius"),
    "bits": "bytes",
    "percent": "ratio",
    "calories": "joules",
}
_PREFIXES = "pico|nano|micro|milli|centi|deci|deca|hecto|kilo|kibi|mega|mebi|giga|gibi|tera|tebi|peta|pebi"
_PREFIXED = re.compile(f"(?:{_PREFIXES})(seconds|bytes|bits|grams|meters|metres|joules|volts|amperes)")


class Refused(Exception):
    """What is wrong, and in which line."""


class Sample(NamedTuple):
    """A line with a value; `labels` are unescaped."""

    name: str
    labels: Mapping[str, str]
    value: float

    @property
    def series(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What only one sample of a text may have."""
        return self.name, tuple(sorted(self.labels.items()))


@attrs.define
class Family:
    """A HELP, a TYPE, and the samples behind them."""

    name: str
    help: str
    kind: str = ""
    samples: list[Sample] = attrs.field(factory=list)

    @property
    def labels(self) -> set[str]:
        """All names of labels that its samples have."""
        return {name for sample in self.samples for name in sample.labels}


def read(text: str) -> dict[str, Family]:
    """The families of a text by name. Raises Refused."""
    if not text.endswith("\n"):
        raise Refused("the last line has no newline")
    families: dict[str, Family] = {}
    seen: set[object] = set()
    open_family: Family | None = None
    for number, line in enumerate(text[:-1].split("\n"), 1):
        try:
            if line.startswith("# HELP "):
                open_family = _help(line, families)
            elif open_family is None:
                raise Refused("not a HELP")
            elif line.startswith("# TYPE "):
                _type(line, open_family)
            else:
                sample = _sample(line)
                _belongs(sample, open_family)
                if sample.series in seen:
                    raise Refused("a series that was there before")
                seen.add(sample.series)
                open_family.samples.append(sample)
        except Refused as refusal:
            raise Refused(f"line {number}, {line!r}: {refusal}") from None
    for family in families.values():
        if problem := next(_problems(family, families), ""):
            raise Refused(f"{family.name}: {problem}")
    return families


def value_of(families: Mapping[str, Family], name: str, **labels: str) -> float:
    """Of the one sample called `name` with just these labels; `from_` stands for `from`."""
    labels = {key.rstrip("_"): text for key, text in labels.items()}
    (found,) = (s.value for family in families.values() for s in family.samples if s.name == name and s.labels == labels)
    return found


def _help(line: str, families: dict[str, Family]) -> Family:
    name, space, text = line.removeprefix("# HELP ").partition(" ")
    if not space or not text.strip():
        raise Refused("no help text")
    if not _METRIC.fullmatch(name):
        raise Refused(f"{name!r} is no name for a metric")
    if not _HELP_TEXT.fullmatch(text):
        raise Refused("a backslash that escapes nothing")
    if name in families:
        raise Refused("a family that was there before")
    families[name] = Family(name, text)
    return families[name]


def _type(line: str, family: Family) -> None:
    name, _, kind = line.removeprefix("# TYPE ").partition(" ")
    if name != family.name:
        raise Refused("the type of another family than the HELP before it")
    if family.kind:
        raise Refused("a second TYPE")
    if kind not in KINDS:
        raise Refused(f"{kind!r} is none of {sorted(KINDS)}")
    family.kind = kind


def _sample(line: str) -> Sample:
    match = _METRIC.match(line)
    if match is None:
        raise Refused("neither a sample nor HELP nor TYPE")
    labels: dict[str, str] = {}
    at = match.end()
    if line[at : at + 1] == "{":
        at += 1
        while pair := _LABEL.match(line, at):
            if pair[1] in labels:
                raise Refused(f"the label {pair[1]} twice")
            if pair[1].startswith("__"):
                raise Refused(f"the label {pair[1]} is for Prometheus itself")
            labels[pair[1]] = _unescaped(pair[2])
            at = pair.end()
            if line[at : at + 1] != ",":
                break
            at += 1
        if line[at : at + 1] != "}" or not labels or line[at - 1] == ",":
            raise Refused(f"no labels from character {at} on")
        at += 1
    if line[at : at + 1] != " ":
        raise Refused("no space before the value")
    value = line[at + 1 :]
    if not _VALUE.fullmatch(value):
        raise Refused(f"{value!r} is no value")
    return Sample(match[0], labels, float(value))


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def _belongs(sample: Sample, family: Family) -> None:
    if not family.kind:
        raise Refused("a sample before the TYPE")
    if sample.name.removeprefix(family.name) not in SUFFIXES[family.kind] or not sample.name.startswith(family.name):
        raise Refused(f"no sample of the {family.kind} {family.name}")


def _problems(family: Family, families: Mapping[str, Family]) -> Iterator[str]:
    yield from _problems_of_name(family, families)
    if not family.kind:
        yield "no TYPE"
    if family.kind == "counter" and not all(0 <= sample.value < math.inf for sample in family.samples):
        yield "a counter below 0, or no number"
    if family.kind == "histogram":
        yield from _problems_of_histogram(family)
    elif "le" in family.labels:
        yield 'the label "le" is for histograms'
    if "quantile" in family.labels:
        yield 'the label "quantile" is for summaries'
    for label in family.labels:
        if re.search("[a-z][A-Z]", label):
            yield f"the label {label} is in camelCase"


def _problems_of_name(family: Family, families: Mapping[str, Family]) -> Iterator[str]:
    name, words = family.name, family.name.lower().split("_")
    if (family.kind == "counter") != name.endswith("_total"):
        yield "counters end in _total, and nothing else does"
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and (family.kind != "histogram" or name.removesuffix(suffix) in families):
            yield f"{suffix} is for what belongs to a histogram"
    if re.search("[a-z][A-Z]", name):
        yield "camelCase"
    for word in words[1:]:
        if word in KINDS | {"summary"}:
            yield f"the type {word} in the name"
        if word in _ABBREVIATIONS:
            yield f"an abbreviated unit, {word}"
    for word in words:
        if prefixed := _PREFIXED.fullmatch(word):
            yield f"{word} instead of {prefixed[1]}"
        if word in _OTHER_UNITS:
            yield f"{word} instead of {_OTHER_UNITS[word]}"


def _problems_of_histogram(family: Family) -> Iterator[str]:
    parts: dict[tuple[tuple[str, str], ...], dict[str, list[Sample]]] = {}
    for sample in family.samples:
        whose = tuple(sorted((name, text) for name, text in sample.labels.items() if name != "le"))
        parts.setdefault(whose, {}).setdefault(sample.name.removeprefix(family.name), []).append(sample)
        if ("le" in sample.labels) != sample.name.endswith("_bucket"):
            yield "le is a label of the buckets, and of nothing else"
    for whose, part in parts.items():
        buckets = part.get("_bucket", [])
        texts = [bucket.labels.get("le", "") for bucket in buckets]
        if not all(_VALUE.fullmatch(text) for text in texts):
            yield f"{whose}: a bound that is no number"
            continue
        bounds, counts = [float(text) for text in texts], [bucket.value for bucket in buckets]
        if len(part.get("_sum", [])) != 1 or len(part.get("_count", [])) != 1:
            yield f"{whose}: without a _sum or a _count"
        elif not bounds or bounds[-1] != math.inf:
            yield f"{whose}: the last bucket is not +Inf"
        elif bounds != sorted(set(bounds)):
            yield f"{whose}: bounds that do not grow"
        elif counts != sorted(counts) or counts[0] < 0 or not all(count.is_integer() for count in counts):
            yield f"{whose}: counts that do not add up"
        elif counts[-1] != part["_count"][0].value:
            yield f"{whose}: _count is not the bucket +Inf"
        elif not 0 <= part["_sum"][0].value < math.inf:
            yield f"{whose}: a _sum that is no time"
