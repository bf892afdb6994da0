"""What Lambda's API answers becomes, and what each of its errors tells a person to do."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from lambda_server import DROPPED, KEY, LambdaCloud

from farm.errors import BadSetting, FarmError, NoCapacity, Refused, TooOften, Unreachable
from workers.node.gpus import Gpu
from workers.node.hardware import _class_name
from workers.rent.lambda_cloud import Lambda
from workers.rent.types import CLASSES, types_of

LAUNCH = "instance-operations/launch"


@pytest.fixture
def account(cloud: LambdaCloud) -> Lambda:
    return Lambda(cloud.key, cloud.url, seconds=5.0)


def test_offers_instances_and_keys_are_read(account: Lambda, cloud: LambdaCloud) -> None:
    cloud.capacity["gpu_1x_a10"] = ["us-west-1", "us-east-1"]
    assert [(one.type, one.usd_per_hour) for one in account.offers()][:2] == [
        ("gpu_1x_a10", 0.75),
        ("gpu_8x_a100", 11.84),
    ]
    assert account.offers()[0].regions == ("us-west-1", "us-east-1")
    found = account.launch("gpu_1x_a10", "us-west-1", "farm-x", "mine", "#cloud-config")
    (one,) = account.instances()
    assert (one.id, one.name, one.status, one.address, one.usd_per_hour) == (found, "farm-x", "booting", None, 0.75)
    assert cloud.asked[-2][1]["user_data"] == "#cloud-config"
    account.end([found])
    assert account.instances()[0].is_over
    account.end(["nothing"])  # gone already
    assert account.ssh_keys() == {"mine": "ssh-ed25519 AAAA me"}


@pytest.mark.parametrize(("kind", "error", "says"), [
    ("capacity", NoCapacity, "Not enough capacity"),
    ("often", TooOften, "Too many requests"),
    ("key", Refused, "Make a key at https://cloud.lambda.ai/api-keys"),
    ("inactive", Refused, "Your account is inactive. Do something about inactive."),
    ("quota", FarmError, "Quota exceeded. Do something about quota."),
    ("invalid", FarmError, "Invalid request data"),
    ("internal", Unreachable, "Something unexpected"),
    (DROPPED, Unreachable, "did not answer"),
])  # fmt: skip
def test_every_error_is_named_with_its_remedy(account: Lambda, cloud: LambdaCloud, kind, error, says) -> None:
    cloud.capacity["gpu_1x_a10"] = ["us-west-1"]
    cloud.fail(LAUNCH, kind)
    with pytest.raises(error) as raised:
        account.launch("gpu_1x_a10", "us-west-1", "farm-x", "mine", None)
    assert says in str(raised.value)
    assert type(raised.value) is error
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(("status", "text"), [(200, "<html>"), (200, '{"data": {"x": 1}}'), (302, ""), (503, "busy")])
def test_an_answer_that_is_none_of_the_api_leaves_open_what_happened(status: int, text: str) -> None:
    """A proxy's page, or a redirect: the key follows none."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words: object) -> None:
            seen.append(words)

    seen: list = []
    server = HTTPServer(("127.0.0.1", 0), Other)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        with pytest.raises(Unreachable):
            Lambda(KEY, f"http://127.0.0.1:{server.server_port}").offers()
        assert len(seen) == 1
    finally:
        server.shutdown()
        server.server_close()


def test_a_key_is_never_sent_unencrypted() -> None:
    with pytest.raises(BadSetting, match="would send the API key unencrypted"):
        Lambda(KEY, "http://cloud.lambda.ai")


@pytest.mark.parametrize(("type", "name", "gib"), [
    ("gpu_8x_a100", "NVIDIA A100-SXM4-40GB", 40),
    ("gpu_8x_a100_80gb_sxm4", "NVIDIA A100-SXM4-80GB", 80),
    ("gpu_1x_a100", "NVIDIA A100-PCIE-40GB", 40),
    ("gpu_8x_h100_sxm5", "NVIDIA H100 80GB HBM3", 79.6),
    ("gpu_1x_h100_pcie", "NVIDIA H100 PCIe", 79.6),
    ("gpu_1x_a10", "NVIDIA A10", 22.5),
    ("gpu_1x_a6000", "NVIDIA RTX A6000", 48),
    ("gpu_8x_v100", "Tesla V100-SXM2-16GB", 16),
])  # fmt: skip
def test_a_type_is_the_class_that_its_driver_makes_of_it(type: str, name: str, gib: float) -> None:
    gpu = Gpu(name=name, memory_bytes=int(gib * 2**30), compute_capability=8.0, driver="580", handle="0")
    assert _class_name((gpu,) * int(type[4])) == CLASSES[type]


def test_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(BadSetting, match="did you mean '8xa100m40'") as raised:
        types_of("8xa100m4")
    assert "8xh100m80" in str(raised.value)
    assert json.dumps(types_of("8xh100m80")) == '["gpu_8x_h100_sxm5", "gpu_8x_h100_sxm5gdr"]'
