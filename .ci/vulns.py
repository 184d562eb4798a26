"""Reads what `govulncheck -format json` says on standard input and tells which vulnerabilities the code calls.
It fails for those of modules, which a commit can update; those of the standard library want a newer Go."""
import json
import sys

text, at, called, titles = sys.stdin.read(), 0, {}, {}
decoder = json.JSONDecoder()
while at < len(text):
    message, at = decoder.raw_decode(text, at)
    while at < len(text) and text[at].isspace():
        at += 1
    if osv := message.get("osv"):
        titles[osv["id"]] = osv.get("summary", "")
    if (finding := message.get("finding")) and "function" in finding["trace"][0]:
        place = finding["trace"][0]
        called[finding["osv"], place["module"]] = (place.get("version", ""), finding.get("fixed_version", "no fix"))
for (osv, module), (version, fixed) in sorted(called.items()):
    print(f"{osv} {module} {version}, fixed in {fixed}: {titles.get(osv, '')}")
modules = [m for _, m in called if m != "stdlib"]
if len(modules) < len(called):
    print("Build with a newer Go: see above for the standard library.")
print(f"{len(modules)} vulnerabilities of modules are called, {len(called) - len(modules)} of the standard library")
sys.exit(bool(modules) or not titles and not text)
