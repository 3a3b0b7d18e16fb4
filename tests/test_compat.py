"""The torchvision cure, and that importing mien stays cheap."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_torchvision_and_timm_import_after_the_cure() -> None:
    code = (
        "from mien.compat import ensure_torchvision; ensure_torchvision(); ensure_torchvision();"
        "import timm, torch; from torchvision.transforms import v2;"
        "net = timm.create_model('test_resnet', num_classes=2);"
        "print(net(torch.zeros(1, 3, 64, 64)).shape[1], v2.Resize(8)(torch.zeros(3, 16, 16)).shape[-1])"
    )
    assert run(code) == "2 8"


def test_other_import_errors_pass_through() -> None:
    code = (
        "import importlib, mien.compat as c\n"
        "def broken(name): raise RuntimeError('something else')\n"
        "c.importlib.import_module = broken\n"
        "try: c.ensure_torchvision()\n"
        "except RuntimeError as error: print(error)"
    )
    assert run(code) == "something else"


def test_missing_operators_are_declared_when_the_import_fails() -> None:
    code = (
        "import importlib, mien.compat as c, torch\n"
        "real, calls = importlib.import_module, []\n"
        "def flaky(name):\n"
        "    calls.append(name)\n"
        "    if len(calls) == 1: raise RuntimeError('operator torchvision::nms does not exist')\n"
        "c.importlib.import_module = flaky\n"
        "c.ensure_torchvision()\n"
        "print(len(calls), torch.ops.torchvision.nms.default._schema.name)"
    )
    assert run(code) == "2 torchvision::nms"


@pytest.mark.slow
def test_a_model_answers_without_the_compiler() -> None:
    code = (
        "import sys, torch, mien.predict.model; from mien.config import ModelConfig; from mien.models import create_model;"
        "net = create_model(ModelConfig(backbone='test_resnet', size=32, preprocessing='grey'), 7).eval();"
        "net(torch.zeros(1, 3, 32, 32)); print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.slow
def test_what_is_asked_of_the_compiler_later_reaches_it() -> None:
    code = (
        "import sys, torch; from mien.compat import ensure_timm; ensure_timm();"
        "from torchvision.ops import roi_align; from timm.models import naflexvit;"
        "assert 'torch._dynamo' not in sys.modules;"
        "asked = vars(sys.modules['torchvision.ops.roi_align'])['is_compile_supported'];"
        "print(asked('cpu') == torch._dynamo.utils.is_compile_supported('cpu'), 'torch._dynamo' in sys.modules,"
        "torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(1)).item())"
    )
    assert run(code) == "True True 1.0"


def test_importing_mien_is_cheap() -> None:
    code = (
        "import sys, mien, mien.schema, mien.cli;"
        "print([m for m in ('torch', 'matplotlib', 'cv2', 'torchvision') if m in sys.modules])"
    )
    assert run(code) == "[]"
