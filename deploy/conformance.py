#!/usr/bin/env python3
"""Passed and failed specs per SIG from ginkgo's JSON report, then why each that failed did."""

import collections
import json
import re
import sys

counts = collections.defaultdict(collections.Counter)
failed = []
for suite in json.load(open(sys.argv[1])):
    for spec in suite["SpecReports"] or []:
        if spec["LeafNodeType"] != "It" or spec["State"] in ("skipped", "pending"):
            continue
        name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
        sig = re.search(r"sig-[\w-]+", name)
        passed = spec["State"] == "passed"
        counts[sig.group() if sig else "other"]["passed" if passed else "failed"] += 1
        if not passed:
            message = " ".join(spec.get("Failure", {}).get("Message", spec["State"]).split())
            failed.append((name, spec["RunTime"] / 1e9, message))

for name, seconds, message in sorted(failed):
    print(f"failed after {seconds:.0f} s: {name}\n    {message[:400]}")
for sig, count in sorted(counts.items()):
    print(f"{sig}: {count['passed']} passed, {count['failed']} failed")
total = sum(counts.values(), collections.Counter())
print(f"all: {total['passed']} passed, {total['failed']} failed")
