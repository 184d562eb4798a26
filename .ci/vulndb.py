"""Makes a database for govulncheck out of the Go module golang.org/x/vulndb, for machines that reach a module
proxy and not vuln.go.dev: vulndb.py MODULE_FOLDER DATABASE_FOLDER."""
import json
import pathlib
import re
import shutil
import sys

source, out = pathlib.Path(sys.argv[1]) / "data" / "osv", pathlib.Path(sys.argv[2])
shutil.rmtree(out, ignore_errors=True)
(out / "ID").mkdir(parents=True)
(out / "index").mkdir()
modules = {}
stamp = re.search(r"-(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)-", str(source))  # of the module's version
latest = "{}-{}-{}T{}:{}:{}Z".format(*stamp.groups())
for file in sorted(source.glob("*.json")):
    text = file.read_text()
    entry = json.loads(text)
    (out / "ID" / file.name).write_text(text)
    for affected in entry["affected"]:
        events = [e for r in affected.get("ranges", []) for e in r["events"]]
        fixed = [e["fixed"] for e in events if "fixed" in e]
        vuln = {"id": entry["id"], "modified": entry["modified"]}
        if events and "fixed" in events[-1]:
            vuln["fixed"] = fixed[-1]
        modules.setdefault(affected["package"]["name"], []).append(vuln)
if len(modules) < 500:
    sys.exit(f"{source} has {len(modules)} modules: not the vulnerability database")
index = [{"path": path, "vulns": vulns} for path, vulns in sorted(modules.items())]
(out / "index" / "modules.json").write_text(json.dumps(index))
(out / "index" / "db.json").write_text(json.dumps({"modified": latest}))
print(f"{len(modules)} modules, as of {latest}")
