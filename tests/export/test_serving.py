"""Requests as TF Serving gets them: protos, warm-up records, configs, the example clients."""

import contextlib
import http.server
import importlib.util
import json
import pathlib
import re
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES, TEMPLATES, assert_equal_outputs
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

import keras_lit
from keras_lit.preprocessing import ImagePreprocessor

pytest.importorskip("tensorflow_serving")
from serving import Server
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "serve"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(saved):
    return Server(saved.path)


def inputs_of(saved, server, name):
    return {key: saved.inputs[key] for key in server.signatures[name].inputs}


@pytest.mark.slow
def test_requests_and_responses_of_every_signature(saved, server):
    for name, expected in saved.outputs.items():
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "lit"
        request.model_spec.signature_name = name
        for key, values in inputs_of(saved, server, name).items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
        received = predict_pb2.PredictRequest.FromString(request.SerializeToString())
        sent = server.predict(received).SerializeToString()
        response = predict_pb2.PredictResponse.FromString(sent)
        found = {key: tf.make_ndarray(tensor) for key, tensor in response.outputs.items()}
        assert_equal_outputs(found, expected)


def test_warm_up_replays_every_signature(saved, server):
    path = saved.path / "assets.extra" / "tf_serving_warmup_requests"
    rows = {}
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        name = request.model_spec.signature_name
        assert set(request.inputs) == set(server.signatures[name].inputs)
        outputs = server.predict(request).outputs
        count = max(tensor.tensor_shape.dim[0].size for tensor in request.inputs.values())
        assert all(tensor.tensor_shape.dim[0].size == count for tensor in outputs.values())
        rows.setdefault(name, []).append(count)
    assert rows == {name: [1, 8] for name in saved.outputs}


def message(name, fields):
    """A message that the PyPI package lacks, from its .proto: {field: (number, type)}."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    added = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        types = {"bool": 8, "string": 9, "google.protobuf.Int64Value": 11}
        added.field.add(
            name=field,
            number=number,
            label=1,
            type=types[kind],
            type_name=kind if "." in kind else None,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def test_example_configs():
    models, monitoring, batching = (
        (EXAMPLES / f"{name}.config").read_text() for name in ("model", "monitoring", "batching")
    )
    config = text_format.Parse(models, model_server_config_pb2.ModelServerConfig())
    assert config.model_config_list.config[0].base_path == "/models/lit"
    number = "google.protobuf.Int64Value"
    parameters = message(  # session_bundle_config.proto
        "BatchingParameters",
        {
            "max_batch_size": (1, number),
            "batch_timeout_micros": (2, number),
            "max_enqueued_batches": (3, number),
            "num_batch_threads": (4, number),
        },
    )
    assert text_format.Parse(batching, parameters).max_batch_size.value == 32
    inside = re.search(r"prometheus_config \{(.*)\}", monitoring, re.DOTALL)[1]
    fields = {"enable": (1, "bool"), "path": (2, "string")}  # monitoring_config.proto
    config = text_format.Parse(inside, message("PrometheusConfig", fields))
    assert config.enable and config.path == "/monitoring/prometheus/metrics"


def test_grpc_client(saved, server):
    client = example("grpc_client")
    with server.grpc() as address, grpc.insecure_channel(address) as channel:
        for name, expected in saved.outputs.items():
            found = client.predict(channel, "lit", name, inputs_of(saved, server, name))
            assert_equal_outputs(found, expected)
        with pytest.raises(SystemExit, match=r"(?s)INVALID_ARGUMENT.*does not decode.*\[1\]"):
            images = [saved.inputs["image_bytes"][0], b"bad"]
            client.predict(channel, "lit", "encode_image", {"image_bytes": images})


def test_rest_client(saved, server, tmp_path, monkeypatch, capsys):
    client = example("rest_client")
    files = [tmp_path / str(i) for i in range(3)]
    for file, contents in zip(files, saved.inputs["image_bytes"], strict=True):
        file.write_bytes(contents)
    images = ["--images", *map(str, files)]
    calls = {
        "encode_text": ["--text", *saved.inputs["text"]],
        "encode_image": images,
        "classify": images,
        "classify_labels": [*images, "--labels", *saved.inputs["labels"]],
        "similarity": [*images, "--text", *saved.inputs["text"]],
    }
    with server.rest() as url:
        for name, arguments in calls.items():
            monkeypatch.setattr("sys.argv", ["client", name, "--server", url, *arguments])
            client.main()
            found = json.loads(capsys.readouterr().out)
            expected = saved.outputs[name]
            if not isinstance(found, dict):
                found = {next(iter(expected)): found}
            for key, values in expected.items():
                if values.dtype == object:
                    values = [[value.decode() for value in row] for row in values]
                    assert found[key] == values
                else:
                    np.testing.assert_allclose(found[key], values, atol=1e-6)
        files[1].write_bytes(b"bad")
        monkeypatch.setattr("sys.argv", ["client", "classify", "--server", url, *images])
        with pytest.raises(SystemExit, match=r"(?s)400: .*does not decode"):
            client.main()


class Big(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers more than the 4 MB that gRPC takes by itself."""

    def Predict(self, request, context):
        response = predict_pb2.PredictResponse()
        response.outputs["embedding"].CopyFrom(tf.make_tensor_proto(np.ones(1_300_000, "float32")))
        return response


def test_grpc_answers_beyond_4_mb(monkeypatch, capsys):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Big(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    arguments = ["client", "encode_text", "--text", "a", "--server", address]
    monkeypatch.setattr("sys.argv", arguments)
    example("grpc_client").main()
    server.stop(None).wait()
    assert "embedding: [1. 1. 1." in capsys.readouterr().out


@contextlib.contextmanager
def answering(code, body):
    """The URL of a server that says `body`, or hangs up where there is none."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if body is not None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (404, b'{"error": "Servable not found"}', r"404: Servable not found"),
        (502, b"<html>\n<h1>Bad Gateway</h1>", r"502: http\S+ answers .*proxy.* <h1>Bad Gateway"),
        (200, b"<html>Please log in", r"200: http\S+ answers .*proxy.* <html>Please log in"),
        (200, b"[1, 2]", r"200: .*proxy.* \[1, 2\]"),
        (503, b"", r"503: .*proxy"),
        (200, None, r"http\S+ does not answer \(.*\): is the server up"),
    ],
)
def test_rest_client_says_in_a_sentence_what_is_wrong(code, body, message):
    with answering(code, body) as url, pytest.raises(SystemExit) as raised:
        example("rest_client").predict(url, "encode_text", {"text": ["a"]})
    assert re.fullmatch(message + ".*", str(raised.value)), raised.value


@pytest.mark.parametrize(
    ("name", "server", "message"),
    [
        (
            "rest_client",
            "http://127.0.0.1:9",
            r"http://127\.0\.0\.1:9/\S+ does not answer \(.*refus",
        ),
        ("rest_client", "127.0.0.1:9", r"127\.0\.0\.1:9/\S+ does not answer \("),
        ("grpc_client", "127.0.0.1:9", r"UNAVAILABLE: .* Is the server up"),
    ],
)
def test_clients_without_a_server_or_a_picture(name, server, message, monkeypatch):
    arguments = ["client", "encode_text", "--text", "a", "--server", server]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match=message):
        example(name).main()
    monkeypatch.setattr("sys.argv", [*arguments, "--images", "nope.jpg"])
    with pytest.raises(SystemExit, match=r"nope\.jpg cannot be read: No such file"):
        example(name).main()


def test_rest_client_prints_json_where_the_server_says_nan(monkeypatch, capsys):
    body = b'{"outputs": {"embedding": [[NaN, 0.5]], "valid": [false]}}'
    with answering(200, body) as url:
        monkeypatch.setattr("sys.argv", ["client", "encode_text", "--text", "a", "--server", url])
        example("rest_client").main()
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == {
        "embedding": [[None, 0.5]],
        "valid": [False],
    }


def test_clients_send_a_row_of_texts_for_each_image(saved, server, tmp_path, monkeypatch, capsys):
    files = [tmp_path / str(i) for i in range(2)]
    for file, contents in zip(files, saved.inputs["image_bytes"], strict=False):
        file.write_bytes(contents)
    images = ["--images", *map(str, files)]
    for name in ("rest_client", "grpc_client"):
        served = server.rest() if name == "rest_client" else server.grpc()
        with served as address:
            arguments = [*images, "--text", "moon", "a balloon", "--server", address]
            monkeypatch.setattr("sys.argv", ["client", "similarity", *arguments])
            example(name).main()
    rest, grpc_lines = capsys.readouterr().out.split("\n", 1)
    expected = saved.outputs["similarity"]["similarity"][:2][:, [1, 3]]
    np.testing.assert_allclose(json.loads(rest), expected, atol=1e-6)
    shown = re.findall(r"-?\d+\.\d*", grpc_lines)
    np.testing.assert_allclose(np.reshape([float(x) for x in shown], [2, 2]), expected, atol=1e-4)


def test_model_card(saved, tmp_path):
    text = (saved.path / "README.md").read_text()
    for line in (
        "| backbone | TextTransformer",
        f"| size | {saved.model.text_tower.preprocessor.tokenizer.vocabulary_size()} |",
        "| tokenizer | BertTokenizer |",
        "| tuning | pretrained, locked |",
        "| tuning | trained anew |",
        "| linear head | 6 to 16 |",
        "| temperature | 10 |",
        f"| classes | {', '.join(CLASSES)} |",
        f"| prompts | {' / '.join(TEMPLATES)} |",
        "| `similarity` | `image_bytes` string [None], `text` string [n, m], [1, m] or [m] |",
        "## Data\n\nNot stated.",
        "## Metrics\n\nNot stated.",
        "import tensorflow_text  #",
        "Text beyond 10 tokens is cut off.",
    ):
        assert line in text, f"{line!r} is not in\n{text}"
    card = {
        "limits": {"pictures": "stamps"},
        "data": "Stamps | of 2024",
        "metrics": {"recall@1": 0.512345},
        "licence": "Apache-2.0",
    }
    in_training = ImagePreprocessor(8, random_crop=(0.5, 1.0), random_flip=True)
    tower = keras_lit.ImageTower(saved.model.image_tower.backbone, "auto", 16, in_training)
    model = keras_lit.LiT(tower, saved.model.text_tower)
    path = keras_lit.export.save(model, tmp_path, towers="image", card=card)
    text = (path / "README.md").read_text()
    for line in (
        "## Data\n\nStamps | of 2024",
        "| recall@1 | 0.5123 |",
        "## Licence\n\nApache-2.0",
        "| pictures | stamps |\n\n- Scores compare",
    ):
        assert line in text
    absences = "encode_text, Text tower, Vocabulary, similarity, tensorflow_text, random_"
    for absent in absences.split(", "):
        assert absent not in text
