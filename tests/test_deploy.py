"""The files of deploy/, as far as they can be checked without a container engine and a cluster."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from twotower.server import metrics
from twotower.server.gate import NEEDED, OPEN
from twotower.server.serve import parser

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
ROUTE = re.compile(r"http://127\.0\.0\.1:(\d+)(/\w+)")


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture(scope="module")
def dockerfile() -> dict[str, list[str]]:
    """Instruction -> its arguments, in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            instruction, _, argument = line.strip().partition(" ")
            found.setdefault(instruction, []).append(argument)
    return found


COMPOSE = load("compose.yaml")
SERVER = COMPOSE["services"]["server"]
OBJECTS = {file: load(f"kubernetes/{file}") for file in load("kubernetes/kustomization.yaml")["resources"]}
POD = OBJECTS["deployment.yaml"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def test_each_file_is_read_by_something_and_parses() -> None:
    files = {file for file in DEPLOY.rglob("*") if file.is_file() and "secrets" not in file.parts}
    for file in files:
        if file.suffix in (".yaml", ".yml"):
            yaml.safe_load(file.read_text())
    mounted = [str(volume).split(":")[0] for volumes in services("volumes").values() for volume in volumes]
    for source in (each for each in mounted if each.startswith("./")):
        assert (DEPLOY / source).exists(), source
    assert len(OBJECTS) == len(files & set((DEPLOY / "kubernetes").glob("*.yaml"))) - 1


def services(key: str) -> dict[str, Any]:
    return {name: service[key] for name, service in COMPOSE["services"].items() if key in service}


def test_the_image_installs_extras_that_exist_and_no_torch(dockerfile: dict[str, list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\"\.\[([\w,]+)\]\"", dockerfile["RUN"][0])
    installed = [
        *project["dependencies"],
        *(line for e in extras.split(",") for line in project["optional-dependencies"][e]),
    ]
    assert any(line.startswith("uvicorn") for line in installed)
    assert not any(line.startswith(("torch", "pytorch", "mlflow", "twotower")) for line in installed)
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for words in (line.split() for line in dockerfile["COPY"] if not line.startswith("--from")):
        for source in words[:-1]:
            assert (ROOT / source).exists() and f"!{source}" in sent


def test_the_image_runs_as_a_user_without_rights(dockerfile: dict[str, list[str]]) -> None:
    assert len(dockerfile["FROM"]) == 2 and "USER" in dockerfile
    uid, gid = map(int, dockerfile["USER"][-1].split(":"))
    assert uid > 1000 and gid > 1000
    context = POD["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (uid, gid, True)


def test_all_command_lines_are_the_server_s_and_ask_for_tokens(dockerfile: dict[str, list[str]]) -> None:
    assert json.loads(dockerfile["ENTRYPOINT"][0]) == ["twotower", "serve"]
    mounts = {volume["target"] for volume in SERVER["volumes"]}
    for arguments in (json.loads(dockerfile["CMD"][0]), SERVER["command"], CONTAINER["args"]):
        options = parser().parse_args(arguments)
        assert options.host == "0.0.0.0" and options.port == int(dockerfile["EXPOSE"][0])
        assert options.tokens.name == "tokens.json"
        assert options.bundle in mounts or options.bundle == "/bundles/shop"
    secret = SERVER["secrets"][0]
    assert f"--tokens=/run/secrets/{secret['target']}" in SERVER["command"]
    assert secret["source"] in COMPOSE["secrets"]
    store = parser().parse_args(SERVER["command"]).store
    assert store.startswith("redis://redis:") and "redis" in COMPOSE["services"]


def test_no_token_or_password_is_in_the_files() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    (generated,) = load("kubernetes/kustomization.yaml")["secretGenerator"]
    assert all(file.startswith("secrets/") for file in generated["files"])
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/deploy/secrets/", "/deploy/kubernetes/secrets/"} <= set(ignored)


def test_only_this_machine_reaches_published_ports() -> None:
    ports = [port for published in services("ports").values() for port in published]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert COMPOSE["networks"]["inner"]["internal"] and COMPOSE["services"]["redis"]["networks"] == ["inner"]


def test_file_systems_are_read_only_and_rights_dropped() -> None:
    assert SERVER["read_only"] and SERVER["cap_drop"] == ["ALL"] and SERVER["volumes"][0]["read_only"]
    assert "no-new-privileges:true" in SERVER["security_opt"]
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    writable = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"} and SERVER["tmpfs"][0].startswith("/tmp:")
    names = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == names


def test_probes_ask_routes_that_need_no_token(dockerfile: dict[str, list[str]]) -> None:
    checks = [dockerfile["HEALTHCHECK"][0], " ".join(SERVER["healthcheck"]["test"])]
    probed = [ROUTE.search(check) for check in checks]
    assert [found.groups() for found in probed if found] == 2 * [(dockerfile["EXPOSE"][0], "/health")]
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == int(dockerfile["EXPOSE"][0])
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/health",
        "liveness": "/health",
        "readiness": "/ready",
    }
    assert {"/health", "/ready"} <= set(OPEN)


def test_kubernetes_objects_mean_each_other() -> None:
    labels = OBJECTS["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert OBJECTS["deployment.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["service.yaml"]["spec"]["selector"] == labels
    assert OBJECTS["disruption_budget.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["service.yaml"]["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
    scaler = OBJECTS["autoscaler.yaml"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == OBJECTS["deployment.yaml"]["metadata"]["name"]
    assert scaler["minReplicas"] > OBJECTS["disruption_budget.yaml"]["spec"]["minAvailable"]
    (kept, tokens, *_) = POD["volumes"]
    assert kept["persistentVolumeClaim"]["claimName"] == OBJECTS["bundles.yaml"]["metadata"]["name"]
    customised = load("kubernetes/kustomization.yaml")
    (generated,) = customised["secretGenerator"]
    keys = {Path(file).name for file in generated["files"]}
    assert tokens["secret"]["secretName"] == generated["name"] and tokens["secret"]["items"][0]["key"] in keys
    reference = CONTAINER["env"][0]["valueFrom"]["secretKeyRef"]
    assert reference["name"] == generated["name"] and reference["key"] in keys
    assert customised["images"][0]["name"] == CONTAINER["image"]


def test_prometheus_reads_the_server_s_metrics_with_a_token(dockerfile: dict[str, list[str]]) -> None:
    (job,) = load("prometheus.yml")["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"server:{dockerfile['EXPOSE'][0]}"]
    assert job["metrics_path"].strip("/") in NEEDED
    token = job["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert token in COMPOSE["secrets"] and token in COMPOSE["services"]["prometheus"]["secrets"]
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in COMPOSE["services"]


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "twotower.json").read_text())
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    exist: dict[str, set[str]] = {}  # name of a sample -> labels
    for metric in (value for value in vars(metrics).values() if hasattr(value, "_labelnames")):
        (family,) = metric.describe()
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}[family.type]
        exist |= {f"{family.name}{suffix}": {*metric._labelnames, "le"} for suffix in suffixes}
    assert {family.name for family in REGISTRY.collect()} >= {"twotower_requests"}
    used: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"] and panel["targets"]
        for target in panel["targets"]:
            names = set(re.findall(r"\btwotower_\w+", target["expr"]))
            assert names and names <= exist.keys(), panel["title"]
            grouped = {
                label for group in re.findall(r"by \(([\w, ]+)\)", target["expr"]) for label in group.split(", ")
            }
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= grouped <= set.union(*(exist[name] for name in names)), panel["title"]
            used |= names
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in used}
    assert families == {re.sub(r"_(bucket|sum|count)$", "", name) for name in exist}
    areas = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for a in areas for x in range(a["x"], a["x"] + a["w"]) for y in range(a["y"], a["y"] + a["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_the_pages_name_the_files_and_commands() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    for secret in COMPOSE["secrets"].values():
        assert f"deploy/{secret['file'].removeprefix('./')}" in page
    for name in re.findall(r"deploy/[\w/.-]+\.(?:yaml|yml|json)\b", page):
        assert (DEPLOY.parent / name).is_file() or "secrets/" in name
