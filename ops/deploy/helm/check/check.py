"""Renders the chart with Helm and validates what comes out: Kubernetes' published schemas (PyPI
kubernetes-validate) and those of KEDA and the Prometheus operator (CRDs of their Go modules).

check.py HELM CRD... compares with the files in ../rendered; with --write it writes them.
"""
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
CHART = HERE.parent / "pelton"
RENDERED = HERE.parent / "rendered"
KUBERNETES = "1.33"


def fingerprint(case):
    """Of everything that a rendered file depends on; integration/helm_test.go computes the same."""
    h = hashlib.sha256()
    for f in sorted(p for p in [*CHART.rglob("*"), case] if p.is_file()):
        h.update(f.relative_to(HERE.parent).as_posix().encode() + b"\0" + f.read_bytes() + b"\0")
    return h.hexdigest()


def chart_in(folder):
    """A copy of the chart with an empty chart in place of NATS', whose repository may be out of reach."""
    copy = pathlib.Path(folder) / "pelton"
    shutil.copytree(CHART, copy)
    (copy / "charts" / "nats").mkdir(parents=True)
    (copy / "charts" / "nats" / "Chart.yaml").write_text("apiVersion: v2\nname: nats\nversion: 1.3.0\n")
    return copy


def run(*args):
    return subprocess.run(args, capture_output=True, text=True)


def schemas(files):
    out = {}
    for f in files:
        for crd in yaml.safe_load_all(pathlib.Path(f).read_text()):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                for v in crd["spec"]["versions"]:
                    out[crd["spec"]["group"] + "/" + v["name"], crd["spec"]["names"]["kind"]] = closed(v["schema"]["openAPIV3Schema"])
    return out


def closed(schema):
    """A schema of a CRD prunes what it does not know; here that is an error."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema = {**schema, "additionalProperties": False}
        if schema.get("x-kubernetes-int-or-string"):
            schema = {k: v for k, v in schema.items() if k not in ("anyOf", "type", "pattern")}
        if "properties" in schema:
            schema["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        for k in ("items", "additionalProperties"):
            if isinstance(schema.get(k), dict):
                schema[k] = closed(schema[k])
    return schema


def validate(doc, crds):
    """Returns what is wrong with one object, "" when nothing is."""
    schema = crds.get((doc["apiVersion"], doc["kind"]))
    if schema:
        schema = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
        errors = jsonschema.Draft202012Validator(schema).iter_errors(doc)
        return "; ".join(f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in errors)
    try:
        kubernetes_validate.validate(doc, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as e:
        return str(e)[:600]
    return ""


def main(helm, crd_files, write):
    crds, wrong = schemas(crd_files), []
    kinds = set()
    with tempfile.TemporaryDirectory() as folder:
        chart = chart_in(folder)
        for case in sorted((HERE / "cases").glob("*.yaml")):
            r = run(helm, "lint", "--strict", "--quiet", str(chart), "-f", str(case))
            if r.returncode:
                wrong.append(f"{case.name}: helm lint: {r.stdout}{r.stderr}")
            r = run(helm, "template", "pelton", str(chart), "--namespace", "fleet", "--kube-version", KUBERNETES, "-f", str(case))
            if r.returncode:
                wrong.append(f"{case.name}: helm template: {r.stderr}")
                continue
            docs = [d for d in yaml.safe_load_all(r.stdout) if d]
            for d in docs:
                kinds.add(d["kind"])
                if why := validate(d, crds):
                    wrong.append(f"{case.name}: {d['kind']} {d['metadata']['name']}: {why}")
                if not validate({**d, "spec": {**d["spec"], "nonsense": 1}}, crds):
                    wrong.append(f"{d['kind']}: the schema lets everything pass")
            text = f"# {fingerprint(case)}\n# helm template pelton --namespace fleet, with check/cases/{case.name}; written by make helm-write\n{r.stdout}"
            golden = RENDERED / case.name
            if write:
                RENDERED.mkdir(exist_ok=True)
                golden.write_text(text)
            elif not golden.exists() or golden.read_text() != text:
                wrong.append(f"rendered/{case.name} is not what the chart renders now: make helm-write")
            print(f"{case.name}: {len(docs)} objects")
        for bad in yaml.safe_load((HERE / "refused.yaml").read_text()):
            values = pathlib.Path(folder) / "values.yaml"
            values.write_text(yaml.safe_dump(bad["values"]))
            r = run(helm, "template", "pelton", str(chart), "--kube-version", KUBERNETES, "-f", str(values))
            if r.returncode == 0 or bad["reason"] not in r.stderr:
                wrong.append(f"{bad['values']} must be refused because of {bad['reason']}: exit {r.returncode} {r.stderr}")
    missing = {"Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "ScaledObject", "Service", "ServiceMonitor"} - kinds
    if missing:
        wrong.append(f"no case renders {sorted(missing)}")
    print("\n".join(wrong) or "all valid")
    return 1 if wrong else 0


if __name__ == "__main__":
    args = [a for a in sys.argv[1:] if a != "--write"]
    sys.exit(main(args[0], args[1:], "--write" in sys.argv))
