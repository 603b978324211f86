"""Asks TF Serving over gRPC: bytes as they are, where JSON needs base64. Needs keras_lit[serve].

python examples/serve/grpc_client.py encode_text --text "a toucan" "a red balloon"
python examples/serve/grpc_client.py encode_image --images a.jpg b.png
python examples/serve/grpc_client.py classify_labels --images a.jpg --labels toucan balloon
python examples/serve/grpc_client.py search --text "a toucan"
"""

import argparse
import pathlib
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

# gRPC refuses messages beyond 4 MB: 3,000 embeddings, or some photos. -1: of any size.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def main() -> None:
    """Sends one request and prints the outputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("signature")
    parser.add_argument("--images", nargs="+", type=pathlib.Path)
    parser.add_argument("--text", nargs="+")
    parser.add_argument("--labels", nargs="+")
    parser.add_argument("--server", default="localhost:8500")
    parser.add_argument("--model", default="lit")
    args = parser.parse_args()
    inputs: dict[str, Any] = {"text": args.text, "labels": args.labels}
    if args.images:
        # A row for each image, so that a server that batches can join this with other requests.
        rows = {name: [texts] * len(args.images) for name, texts in inputs.items() if texts}
        try:
            inputs = {"image_bytes": [image.read_bytes() for image in args.images], **rows}
        except OSError as error:
            raise SystemExit(f"{error.filename} cannot be read: {error.strerror}.") from None
    inputs = {name: values for name, values in inputs.items() if values}
    with grpc.insecure_channel(args.server, OPTIONS) as channel:
        for name, values in predict(channel, args.model, args.signature, inputs).items():
            print(name, np.array2string(values, threshold=20, precision=4), sep=": ")


def predict(
    channel: grpc.Channel, model: str, signature: str, inputs: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The outputs by name."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        response = stub.Predict(request, timeout=60)
    except grpc.RpcError as error:
        silent = error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        hint = " Is the server up, and this its gRPC address?" if silent else ""
        raise SystemExit(f"{error.code().name}: {error.details()}{hint}") from None
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


if __name__ == "__main__":
    main()
