"""Asks TF Serving over REST. Needs nothing but Python.

python examples/serve/rest_client.py encode_text --text "a toucan" "a red balloon"
python examples/serve/rest_client.py encode_image --images a.jpg b.png
python examples/serve/rest_client.py classify --images a.jpg
python examples/serve/rest_client.py classify_labels --images a.jpg --labels toucan balloon
python examples/serve/rest_client.py similarity --images a.jpg b.png --text "a toucan"
"""

import argparse
import base64
import json
import pathlib
import urllib.error
import urllib.request
from typing import Any


def main() -> None:
    """Sends one request and prints the outputs as JSON."""
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
        inputs["image_bytes"] = [
            {"b64": base64.b64encode(image.read_bytes()).decode()} for image in args.images
        ]
    inputs = {name: values for name, values in inputs.items() if values}
    url = f"{args.server}/v1/models/{args.model}:predict"
    print(json.dumps(predict(url, args.signature, inputs)))


def predict(url: str, signature: str, inputs: dict[str, Any]) -> Any:
    """The outputs: a dict by name, or the values alone where a signature has one output."""
    # "inputs" (columns) and not "instances" (rows): images and labels differ in number.
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
            return json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{error.code}: {json.load(error)['error']}") from None


if __name__ == "__main__":
    main()
