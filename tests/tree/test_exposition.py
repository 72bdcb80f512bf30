# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader of the exposition format refuses what it is to refuse, and takes what is right."""

from __future__ import annotations

import pytest

from tests.tree.exposition import Refused, read, value_of

GAUGE = "# HELP x_lines Lines.\n# TYPE x_lines gauge\n"
COUNTER = "# HELP x_errors_total Errors.\n# TYPE x_errors_total counter\n"
HISTOGRAM = "# HELP x_seconds Time.\n# TYPE x_seconds histogram\n"
BUCKETS = 'x_seconds_bucket{le="0.5"} 1\nx_seconds_bucket{le="+Inf"} 3\n'


def test_what_is_right_is_taken() -> None:
    text = (
        GAUGE + 'x_lines{a="1",b="q\\"b\\\\n\\nü"} -1.5e-3\nx_lines +Inf\nx_lines{a="2"} NaN\n' + COUNTER + "x_errors_total 0\n"
        "# HELP x_seconds A back\\\\slash and a line\\nbreak.\n# TYPE x_seconds histogram\n"
        + BUCKETS
        + 'x_seconds_sum 4.5\nx_seconds_count 3\nx_seconds_bucket{op="w",le="+Inf"} 0\n'
        + 'x_seconds_sum{op="w"} 0.0\nx_seconds_count{op="w"} 0\n'
        + "# HELP process_resident_memory_bytes Nobody is there.\n# TYPE process_resident_memory_bytes gauge\n"
    )
    families = read(text)
    assert [family.kind for family in families.values()] == ["gauge", "counter", "histogram", "gauge"]
    assert families["x_lines"].samples[0].labels == {"a": "1", "b": 'q"b\\n\nü'}
    assert value_of(families, "x_seconds_bucket", le="0.5") == 1
    assert families["x_seconds"].labels == {"le", "op"}


BROKEN = {
    "no newline at the end": GAUGE + "x_lines 1",
    "nothing": "",
    "blank line": GAUGE + "\nx_lines 1\n",
    "blank line at the end": GAUGE + "x_lines 1\n\n",
    "other comment": GAUGE + "# a comment\nx_lines 1\n",
    "carriage return": GAUGE + "x_lines 1\r\n",
    "no HELP": "# TYPE x_lines gauge\nx_lines 1\n",
    "no TYPE": "# HELP x_lines Lines.\nx_lines 1\n",
    "no TYPE and no sample": "# HELP x_lines Lines.\n",
    "empty HELP": "# HELP x_lines \n# TYPE x_lines gauge\n",
    "HELP without a text": "# HELP x_lines\n# TYPE x_lines gauge\n",
    "HELP with a stray backslash": "# HELP x_lines a\\b\n# TYPE x_lines gauge\n",
    "HELP twice": GAUGE + GAUGE,
    "TYPE twice": GAUGE + "# TYPE x_lines gauge\n",
    "TYPE behind a sample": "# HELP x_lines Lines.\nx_lines 1\n# TYPE x_lines gauge\n",
    "TYPE of another": "# HELP x_lines Lines.\n# TYPE y_lines gauge\n",
    "TYPE that is none": "# HELP x_lines Lines.\n# TYPE x_lines meter\n",
    "family in two parts": GAUGE + "x_lines 1\n" + COUNTER + 'x_lines{a="1"} 1\n',
    "sample of another": GAUGE + "y_lines 1\n",
    "name with a dash": "# HELP x-lines Lines.\n# TYPE x-lines gauge\n",
    "name with a colon": "# HELP x:lines Lines.\n# TYPE x:lines gauge\n",
    "name that begins with a digit": "# HELP 1_lines Lines.\n# TYPE 1_lines gauge\n",
    "space before the sample": GAUGE + " x_lines 1\n",
    "space behind the value": GAUGE + "x_lines 1 \n",
    "two spaces": GAUGE + "x_lines  1\n",
    "timestamp": GAUGE + "x_lines 1 1395066363000\n",
    "no value": GAUGE + "x_lines\n",
    "word for a value": GAUGE + "x_lines many\n",
    "Python's infinity": GAUGE + "x_lines inf\n",
    "Python's nan": GAUGE + "x_lines nan\n",
    "underscored digits": GAUGE + "x_lines 1_000\n",
    "other digits": GAUGE + "x_lines \u0661\n",
    "True": GAUGE + "x_lines True\n",
    "label without quotes": GAUGE + "x_lines{a=1} 1\n",
    "label with single quotes": GAUGE + "x_lines{a='1'} 1\n",
    "label with a dash": GAUGE + 'x_lines{a-b="1"} 1\n',
    "label twice": GAUGE + 'x_lines{a="1",a="2"} 1\n',
    "label of Prometheus": GAUGE + 'x_lines{__name__="1"} 1\n',
    "label with an open quote": GAUGE + 'x_lines{a="1} 1\n',
    "label with a bare quote": GAUGE + 'x_lines{a="1"2"} 1\n',
    "label with an unknown escape": GAUGE + 'x_lines{a="\\t"} 1\n',
    "label that ends in a backslash": GAUGE + 'x_lines{a="1\\"} 1\n',
    "label with a line break": GAUGE + 'x_lines{a="1\n2"} 1\n',
    "labels without a comma": GAUGE + 'x_lines{a="1" b="2"} 1\n',
    "labels with a comma too many": GAUGE + 'x_lines{a="1",} 1\n',
    "no labels in braces": GAUGE + "x_lines{} 1\n",
    "braces left open": GAUGE + 'x_lines{a="1" 1\n',
    "series twice": GAUGE + 'x_lines{a="1",b="2"} 1\nx_lines{b="2",a="1"} 1\n',
    "counter without _total": "# HELP x_errors Errors.\n# TYPE x_errors counter\n",
    "_total that is no counter": "# HELP x_total Errors.\n# TYPE x_total gauge\n",
    "negative counter": COUNTER + "x_errors_total -1\n",
    "counter that is no number": COUNTER + "x_errors_total NaN\n",
    "endless counter": COUNTER + "x_errors_total +Inf\n",
    "type in the name": "# HELP x_gauge_lines Lines.\n# TYPE x_gauge_lines gauge\n",
    "camelCase": "# HELP xLines Lines.\n# TYPE xLines gauge\n",
    "camelCase in a label": GAUGE + 'x_lines{theLine="1"} 1\n',
    "abbreviated unit": "# HELP x_ms Time.\n# TYPE x_ms gauge\n",
    "abbreviated unit inside": "# HELP x_mb_used Room.\n# TYPE x_mb_used gauge\n",
    "no base unit": "# HELP x_milliseconds Time.\n# TYPE x_milliseconds gauge\n",
    "no base unit either": "# HELP x_hours Time.\n# TYPE x_hours gauge\n",
    "percent": "# HELP x_percent Share.\n# TYPE x_percent gauge\n",
    "gauge called _bucket": "# HELP x_bucket B.\n# TYPE x_bucket gauge\n",
    "gauge called _count": "# HELP x_count B.\n# TYPE x_count gauge\n",
    "gauge called _sum": "# HELP x_sum B.\n# TYPE x_sum gauge\n",
    "le of a gauge": GAUGE + 'x_lines{le="1"} 1\n',
    "quantile": GAUGE + 'x_lines{quantile="1"} 1\n',
    "histogram without suffix": HISTOGRAM + "x_seconds 1\n",
    "histogram without buckets": HISTOGRAM + "x_seconds_sum 4.5\nx_seconds_count 3\n",
    "histogram without _sum": HISTOGRAM + BUCKETS + "x_seconds_count 3\n",
    "histogram without _count": HISTOGRAM + BUCKETS + "x_seconds_sum 4.5\n",
    "histogram without +Inf": HISTOGRAM + 'x_seconds_bucket{le="0.5"} 3\nx_seconds_sum 4.5\nx_seconds_count 3\n',
    "bucket without le": HISTOGRAM + BUCKETS + "x_seconds_bucket 1\nx_seconds_sum 4.5\nx_seconds_count 3\n",
    "_sum with le": HISTOGRAM + BUCKETS + 'x_seconds_sum{le="1"} 4.5\nx_seconds_count 3\n',
    "bounds that fall": HISTOGRAM + 'x_seconds_bucket{le="1"} 1\n' + BUCKETS + "x_seconds_sum 4.5\nx_seconds_count 3\n",
    "bound twice": HISTOGRAM + 'x_seconds_bucket{le="0.50"} 1\n' + BUCKETS + "x_seconds_sum 4.5\nx_seconds_count 3\n",
    "bound that is no number": HISTOGRAM + 'x_seconds_bucket{le="a"} 1\n' + BUCKETS + "x_seconds_sum 4.5\nx_seconds_count 3\n",
    "buckets that fall": HISTOGRAM + 'x_seconds_bucket{le="0.1"} 2\n' + BUCKETS + "x_seconds_sum 4.5\nx_seconds_count 3\n",
    "half a request": HISTOGRAM + 'x_seconds_bucket{le="0.1"} 0.5\n' + BUCKETS + "x_seconds_sum 4.5\nx_seconds_count 3\n",
    "_count that is not +Inf": HISTOGRAM + BUCKETS + "x_seconds_sum 4.5\nx_seconds_count 4\n",
    "negative _sum": HISTOGRAM + BUCKETS + "x_seconds_sum -4.5\nx_seconds_count 3\n",
    "one of two without +Inf": HISTOGRAM
    + BUCKETS
    + 'x_seconds_sum 4.5\nx_seconds_count 3\nx_seconds_sum{a="1"} 1\nx_seconds_count{a="1"} 1\n',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        read(text)
