"""What TF Serving does with an artifact, as far as the tests need it: session, gRPC, REST."""

import base64
import contextlib
import http.server
import json
import threading
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class Server(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Loads with the session loader and answers `PredictRequest`s."""

    def __init__(self, path):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        loaded = tf.compat.v1.saved_model.load(self.session, ["serve"], str(path))
        self.signatures = loaded.signature_def

    def run(self, name, inputs):
        signature = self.signatures[name]
        feeds = {signature.inputs[key].name: values for key, values in inputs.items()}
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return self.session.run(fetches, feeds)

    def predict(self, request):
        name = request.model_spec.signature_name or "serving_default"
        given = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for key, values in self.run(name, given).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(values))
        return response

    def Predict(self, request, context):
        try:
            return self.predict(request)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    @contextlib.contextmanager
    def grpc(self):
        """Serves on a free port; gives "host:port"."""
        server = grpc.server(futures.ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()

    @contextlib.contextmanager
    def rest(self):
        """Serves the column format of TF Serving's REST API on a free port; gives the URL."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()


def _handler(served):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/models/lit:predict"
            inputs = {name: _from_json(values) for name, values in body["inputs"].items()}
            try:
                found = served.run(body["signature_name"], inputs)
            except tf.errors.InvalidArgumentError as error:
                return self.answer(400, {"error": error.message})
            found = {name: _to_json(values) for name, values in found.items()}
            # TF Serving leaves the name of a single output out.
            self.answer(200, {"outputs": found if len(found) > 1 else next(iter(found.values()))})

        def answer(self, code, content):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *args):
            pass

    return Handler


def _from_json(values):
    def decoded(value):
        if isinstance(value, list):
            return [decoded(x) for x in value]
        return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()

    return np.array(decoded(values), object)


def _to_json(values):
    if values.dtype == object:
        return [[name.decode() for name in row] for row in values]
    return values.tolist()
