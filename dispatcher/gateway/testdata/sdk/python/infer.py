"""Checks the Open Inference Protocol with NVIDIA's client for Triton, whose tensors are binary unless told
otherwise: python infer.py BASE_URL MODEL (of integration/testdata/tiny.onnx)"""
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

base, model = sys.argv[1].split("://", 1)[1].rstrip("/"), sys.argv[2]
client = http.InferenceServerClient(base, network_timeout=120, connection_timeout=120)
X = np.array([[1, 2, 3, 4], [0, -1, 0, 1]], dtype=np.float32)


def ask(binary_in, binary_out, **more):
    x = http.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X, binary_data=binary_in)
    outputs = None if binary_out is None else [http.InferRequestedOutput(n, binary_data=binary_out) for n in ("y", "label")]
    return client.infer(model, [x], outputs=outputs, request_id="7", **more)


def main():
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    assert not client.is_model_ready("no-such-model")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    ports = client.get_model_metadata(model)
    assert [p["name"] for p in ports["inputs"]] == ["x"] and [p["name"] for p in ports["outputs"]] == ["y", "label"], ports
    first = None
    for binary_in in (True, False):
        for binary_out in (None, True, False):  # None: all outputs, in binary
            r = ask(binary_in, binary_out)
            y, label = r.as_numpy("y"), r.as_numpy("label")
            assert r.get_response()["id"] == "7" and y.shape == (2, 3) and y.dtype == np.float32 and label.dtype == np.int64
            assert (y.argmax(axis=1) == label).all(), (y, label)
            first = y if first is None else first
            assert y.tobytes() == first.tobytes(), "numbers and bytes: the same tensor"
    try:
        ask(True, True, headers={"Inference-Header-Content-Length": "x"})
    except InferenceServerException as e:
        assert "length" in str(e).lower(), e
    wrong = http.InferInput("x", [1, 4], "FP64")
    wrong.set_data_from_numpy(np.zeros((1, 4)))
    try:
        client.infer(model, [wrong])
    except InferenceServerException as e:
        assert e.status() == "400" and "the model reads FP32" in e.message(), (e.status(), e.message())
    else:
        raise AssertionError("a wrong type was not refused")
    print("inferred in numbers and in bytes")


main()
