"""Asks TF Serving over REST. Needs nothing but Python.

python examples/serve/rest_client.py encode_text --text "a toucan" "a red balloon"
python examples/serve/rest_client.py encode_image --images a.jpg b.png
python examples/serve/rest_client.py classify --images a.jpg
python examples/serve/rest_client.py classify_labels --images a.jpg --labels toucan balloon
python examples/serve/rest_client.py similarity --images a.jpg b.png --text "a toucan"
python examples/serve/rest_client.py search --text "a toucan"
python examples/serve/rest_client.py search_image --images a.jpg
"""

import argparse
import base64
import http.client
import json
import pathlib
import urllib.error
import urllib.request
from typing import Any


def main() -> None:
    """Sends one request and prints the outputs as JSON, null where the server says NaN."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("signature")
    parser.add_argument("--images", nargs="+", type=pathlib.Path)
    parser.add_argument("--text", nargs="+")
    parser.add_argument("--labels", nargs="+")
    parser.add_argument("--server", default="http://localhost:8501")
    parser.add_argument("--model", default="lit")
    args = parser.parse_args()
    inputs: dict[str, Any] = {"text": args.text, "labels": args.labels}
    if args.images:
        # A row for each image, so that a server that batches can join this with other requests.
        rows = {name: [texts] * len(args.images) for name, texts in inputs.items() if texts}
        try:
            contents = [image.read_bytes() for image in args.images]
        except OSError as error:
            raise SystemExit(f"{error.filename} cannot be read: {error.strerror}.") from None
        encoded = [{"b64": base64.b64encode(x).decode()} for x in contents]
        inputs = {"image_bytes": encoded, **rows}
    inputs = {name: values for name, values in inputs.items() if values}
    url = f"{args.server}/v1/models/{args.model}:predict"
    print(json.dumps(predict(url, args.signature, inputs), allow_nan=False))


def predict(url: str, signature: str, inputs: dict[str, Any]) -> Any:
    """The outputs: a dict by name, or the values alone where a signature has one output."""
    # "inputs" (columns) and not "instances" (rows): these take one row of labels for all, too.
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as response:
            status, answer = f"{response.status}", response.read()
    except urllib.error.HTTPError as error:
        status, answer = f"{error.code}", error.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise SystemExit(
            f"{url} does not answer ({reason}): is the server up, and this its REST address?"
        ) from None
    try:
        # TF Serving writes NaN, which is not JSON.
        found = json.loads(answer, parse_constant=lambda _: None)
        if "outputs" in found:
            return found["outputs"]
        message = found["error"]
    except (ValueError, TypeError, KeyError):
        start = " ".join(answer.decode(errors="replace").split())[:200]
        message = f"{url} answers what TF Serving does not (a proxy?): {start}"
    raise SystemExit(f"{status}: {message}")


if __name__ == "__main__":
    main()
