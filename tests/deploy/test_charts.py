"""deploy/helm: linted and rendered by Helm's own library where it is installed, read as text where not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

HELM = Path(__file__).parents[2] / "deploy" / "helm"
CHARTS = ("phcc-server", "phcc-client")
VALUES: dict[str, dict[str, Any]] = {
    "phcc-server": {"address": "phcc.example.org:443", "sans": ["10.0.0.1"]},
    "phcc-client": {
        "data": {"volume": {"persistentVolumeClaim": {"claimName": "liver", "readOnly": True}}},
        "settings": {"device": ["cuda:0", "cuda:1"], "minimum_count": 10},
        "gpu": {"count": 2},
    },
}
SIDECAR = {"metrics": {"sidecar": {"enabled": True, "from": [{"namespaceSelector": {}}]}}}


def rendered(chart: str, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects of a chart by kind."""
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    with helm.Chart.load(HELM / chart) as loaded:
        texts = loaded.render(values, name="phcc").values()
    found = [each for text in texts for each in yaml.safe_load_all(text) if each]
    return {each["kind"]: each for each in found}


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_finds_no_fault(chart: str) -> None:
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    report = helm.lint(HELM / chart, VALUES[chart], strict=True)
    assert not report["errors"]
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", [{}, SIDECAR], ids=["plain", "sidecar"])
@pytest.mark.parametrize("chart", CHARTS)
def test_kubernetes_would_accept_what_is_rendered(chart: str, values: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for each in rendered(chart, VALUES[chart] | values).values():
        validate.validate(each, "1.32", strict=True)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_pod_is_closed(chart: str) -> None:
    objects = rendered(chart, VALUES[chart] | SIDECAR)
    spec = objects["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["replicas"] == 1
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


def test_a_service_leads_to_the_front_door_and_a_hospital_has_none() -> None:
    service = rendered("phcc-server", VALUES["phcc-server"])["Service"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["front-door"]
    assert "Service" not in rendered("phcc-client", VALUES["phcc-client"])


def test_the_network_policies_let_the_front_door_in_and_the_hospital_out() -> None:
    server = rendered("phcc-server", VALUES["phcc-server"])["NetworkPolicy"]["spec"]
    assert server["egress"] == []
    assert [rule["ports"][0]["port"] for rule in server["ingress"]] == ["front-door"]
    client = rendered("phcc-client", VALUES["phcc-client"])["NetworkPolicy"]["spec"]
    assert client["ingress"] == []
    assert {port["port"] for rule in client["egress"] for port in rule["ports"]} == {443, 53}


def test_a_hospital_gets_its_gpus_and_reads_its_images_only() -> None:
    pod = rendered("phcc-client", VALUES["phcc-client"])["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert [m["readOnly"] for m in container["volumeMounts"] if m["mountPath"] == "/data"] == [True]


@pytest.mark.parametrize(("chart", "word"), [("phcc-server", "address"), ("phcc-client", "data.volume")])
def test_a_value_that_is_missing_is_asked_for_by_its_name(chart: str, word: str) -> None:
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    with pytest.raises(helm.HelmError, match=word):
        rendered(chart, {})


@pytest.mark.parametrize("chart", CHARTS)
def test_a_template_refers_to_values_that_there_are(chart: str) -> None:
    values = yaml.safe_load((HELM / chart / "values.yaml").read_text())
    used: set[str] = set()
    for template in (HELM / chart / "templates").iterdir():
        for name in re.findall(r"\.Values\.([A-Za-z.]+)", template.read_text()):
            tree = values
            for key in name.split("."):
                assert key in tree, f"{template.name}: {name}"
                tree = tree[key]
            used.add(name.split(".")[0])
    assert used == set(values)


@pytest.mark.parametrize("chart", CHARTS)
def test_blocks_of_a_template_close(chart: str) -> None:
    for template in (HELM / chart / "templates").iterdir():
        text = template.read_text()
        opened = len(re.findall(r"\{\{-? *(?:if|with|range|define) ", text))
        assert opened == len(re.findall(r"\{\{-? *end *-?\}\}", text)), template.name


def test_both_charts_share_their_helpers() -> None:
    one, other = (HELM / chart / "templates" / "_helpers.tpl" for chart in CHARTS)
    assert one.read_text() == other.read_text()
