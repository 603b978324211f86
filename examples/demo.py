"""A web page over a model and a folder: pictures for a sentence, and labels for a picture.

    pip install 'keras_lit[web]'
    python examples/demo.py --model runs/quickstart/model.keras --pictures photos

The folder is indexed in the background, into `.index` in it or where --index says; the next time
only what is new. The page answers on this computer alone unless --host says otherwise.
"""

import argparse
import json
import pathlib

import keras
from search_page.collection import Collection
from search_page.labels import Classifier
from search_page.server import serve

from keras_lit.evaluation.calibration import Calibration

ABOUT = (
    "Say what a picture should show, in your own words, or begin with a picture. All of it runs on "
    "this computer."
)


def main() -> None:
    """Serves the page until it is interrupted."""
    args = parse_arguments()
    try:
        model = keras.saving.load_model(args.model)
        calibration = None
        if args.calibration:
            calibration = Calibration.from_dict(json.loads(args.calibration.read_text()))
        collection = Collection(model, args.pictures, args.index or args.pictures / ".index")
        classifier = Classifier(collection, calibration)
        blocks, url = serve(
            collection, classifier, args.title, args.about, host=args.host, port=args.port
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error
    print(f"The page is at {url} until Ctrl+C.", flush=True)
    collection.start()
    blocks.block_thread()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a .keras file")
    parser.add_argument("--pictures", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--index", type=pathlib.Path, help="the folder of the index")
    parser.add_argument(
        "--calibration", type=pathlib.Path, help="JSON of `Calibration.to_dict` of this model"
    )
    parser.add_argument("--title", default="Search your pictures")
    parser.add_argument("--about", default=ABOUT, help="the sentence below the title")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for the whole network")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    return parser.parse_args()


if __name__ == "__main__":
    main()
