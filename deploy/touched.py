#!/usr/bin/env python3
"""Crates whose unit tests are worth their time for what has changed, as arguments for cargo: `--package NAME` each.

  touched.py              what differs from the branch's merge base with its upstream (without one: from HEAD)
  touched.py BASE         what differs from that commit
  touched.py --paths P..  these files

They are those that files have changed in, those that decide and never act (their tests are quick), the tidy rules' own,
and of the others that depend on a changed one those that are compiled quickly.
"""
import json, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = "kontiki-chaos-tests"
# Compiled with their unit tests in seconds, unless what lies between them and the change is not.
CHEAP = {"kontiki-proto", "kontiki-scheduler", "kontiki-controllers", "kontiki-net", "kontiki-etcd-tests", "kontiki-api-load"}


def lines(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def changed(base):
    if not base:
        upstream = subprocess.run(["git", "merge-base", "HEAD", "@{upstream}"], cwd=ROOT, capture_output=True, text=True)
        base = upstream.stdout.strip() or "HEAD"
    return lines("git", "diff", "--name-only", base) + lines("git", "ls-files", "--others", "--exclude-standard")


def pure():
    text = (ROOT / "chaos-tests/tests/tidy.rs").read_text()
    return set(re.findall(r'"([\w-]+)"', re.search(r"const PURE: &\[&str\] =\s*&\[(.*?)\];", text, re.S)[1]))


def workspace():
    """Of each crate its folder and the crates of the workspace that it depends on, also for its tests."""
    packages = json.loads("".join(lines("cargo", "metadata", "--no-deps", "--format-version", "1")))["packages"]
    names = {package["name"] for package in packages}
    folder = lambda package: str(Path(package["manifest_path"]).parent.relative_to(ROOT)) + "/"
    return {p["name"]: (folder(p), {d["name"] for d in p["dependencies"]} & names) for p in packages}


def owner(crates, path):
    """The crate with the longest folder around the file."""
    around = [(len(folder), name) for name, (folder, _) in crates.items() if path.startswith(folder)]
    return max(around)[1] if around else None


def above(crates, start):
    """Everything that depends on one of `start`, however indirectly; what is to be compiled again, and `start`."""
    found = set(start)
    while more := {name for name, (_, needs) in crates.items() if needs & found} - found:
        found |= more
    return found


def worth_running(crates, paths):
    touched = {owner(crates, path) for path in paths} - {None}
    known = pure() & set(crates)
    quick, again = touched | known, above(crates, touched)
    while more := {n for n in (CHEAP & again) - quick if not (crates[n][1] & again) - quick}:
        quick |= more
    return quick | {RULES}


def main(arguments):
    paths = arguments[1:] if arguments[:1] == ["--paths"] else changed(next(iter(arguments), None))
    print(" ".join(f"--package {name}" for name in sorted(worth_running(workspace(), paths))))


if __name__ == "__main__":
    main(sys.argv[1:])
