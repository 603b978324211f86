"""Requests as TF Serving gets them: protos, warm-up records, configs, the example clients."""

import importlib.util
import json
import pathlib
import re

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

pytest.importorskip("tensorflow_serving")
from serving import Server
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
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
        "| `similarity` | `image_bytes` string [None], `text` string [None] |",
        "## Data\n\nNot stated.",
        "## Metrics\n\nNot stated.",
        "Text beyond 10 tokens is cut off.",
    ):
        assert line in text, f"{line!r} is not in\n{text}"
    card = {"data": "Stamps | of 2024", "metrics": {"recall@1": 0.512345}, "licence": "Apache-2.0"}
    path = keras_lit.export.save(saved.model, tmp_path, towers="image", card=card)
    text = (path / "README.md").read_text()
    for line in (
        "## Data\n\nStamps | of 2024",
        "| recall@1 | 0.5123 |",
        "## Licence\n\nApache-2.0",
    ):
        assert line in text
    for absent in ("encode_text", "Text tower", "Vocabulary", "similarity"):
        assert absent not in text
