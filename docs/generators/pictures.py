"""The pictures of the gallery and of the page on explanations: their code and descriptions."""

from typing import NamedTuple


class Picture(NamedTuple):
    """A picture and the line that draws it.

    Args:
        name: name of the file, without its ending.
        title: a few words with a full stop or a question mark.
        code: an expression that returns a figure, or a `cnnarch` command with `--output`.
        text: what the picture shows, in a sentence or two.
        alt: what is seen, for readers who do not see it.
        wide: whether the picture takes the width of two.
    """

    name: str
    title: str
    code: str
    text: str
    alt: str
    wide: bool = False

    @property
    def is_command(self) -> bool:
        """Whether the code is a command of the shell."""
        return self.code.startswith("cnnarch ")


RUN = "cnnarch train lenet5 --data digits --output runs/first"

SETUP = """\
from pathlib import Path

import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

import cnnarch
from cnnarch import viz
from cnnarch.training import History, evaluate, fit, load_data

data = load_data("digits")
lenet5 = cnnarch.from_pretrained("runs/first")
metrics = evaluate(lenet5, data.test)
history = History.load("runs/first/metrics.csv")
other_history = fit(cnnarch.convnet(), data)

model = cnnarch.efficientnet_lite0(weights="DEFAULT")  # trained on ImageNet
classes = model.categories
Path("photos").mkdir()
Image.fromarray(skimage.data.cat()).save("photos/cat.jpg")
Image.fromarray(skimage.data.coffee()).save("photos/coffee.jpg")
for name in ("china.jpg", "flower.jpg"):
    Image.fromarray(load_sample_image(name)).save(f"photos/{name}")
"""

TRAINING = (
    Picture(
        "data_grid",
        "Training images.",
        "viz.data_grid(\n    data.train, rows=3, columns=4\n)",
        "The first images with their classes. Look at these before you train.",
        "A grid of 12 handwritten digits, each with its class above it.",
    ),
    Picture(
        "predictions",
        "Predictions.",
        "viz.predictions(\n    lenet5, data.test, rows=3, columns=4\n)",
        "Wrong predictions have a red frame and the true class.",
        "A grid of 12 handwritten digits in colored frames, with the predicted classes and their "
        "probabilities.",
    ),
    Picture(
        "curves",
        "Loss and accuracy.",
        "viz.curves(history)",
        "One point per epoch. A gap that grows between the two lines is overfitting.",
        "Two plots by epoch: the training and validation losses fall together, and both "
        "accuracies rise to almost 100 percent.",
    ),
    Picture(
        "comparison",
        "Several runs.",
        'viz.comparison({\n    "lenet5": history,\n    "convnet": other_history,\n})',
        "`cnnarch compare` trains several networks and draws this.",
        "Two plots by epoch, the training and the validation accuracy of LeNet-5 and a ConvNet.",
    ),
    Picture(
        "confusion_matrix",
        "Confusion matrix.",
        "viz.confusion_matrix(\n    metrics.confusion, data.classes\n)",
        "Rows are the true classes, columns the predicted ones.",
        "A ten by ten matrix of counts with almost all test images on the diagonal.",
    ),
    Picture(
        "embeddings",
        "Embedding of test images.",
        "viz.embeddings(\n    lenet5, data.test, num_samples=500\n)",
        "The inputs of the classifier in two dimensions, by t-SNE, PCA or UMAP.",
        "A scatter plot in which the images of each digit form a cluster of one color.",
    ),
)

NETWORKS = (
    Picture(
        "gradcam",
        "Grad-CAM.",
        'viz.gradcam(model, "photos")',
        "The regions that support the predicted class, for every image in a folder.",
        "Four photographs, a cat, a temple, a cup of coffee and a flower, each above its heatmap, "
        "which is brightest on the object.",
        wide=True,
    ),
    Picture(
        "integrated_gradients",
        "Integrated gradients.",
        "viz.integrated_gradients(\n    model,\n"
        '    ["photos/cat.jpg",\n     "photos/china.jpg"],\n    steps=16,\n)',
        "The pixels that affect the score of the predicted class.",
        "A cat and a temple. Below the cat, the bright pixels are on its eyes and nose; below the "
        "temple, they are in the sky and on the lake.",
    ),
    Picture(
        "photographs",
        "Predictions for photographs.",
        "cnnarch draw predictions photos \\\n"
        "  --model efficientnet_lite0 \\\n"
        "  --columns 2 --output predictions.png",
        "The command draws what the function draws.",
        "Four photographs with the predicted ImageNet class and its probability.",
    ),
    Picture(
        "feature_maps",
        "Feature maps.",
        'viz.feature_maps(model, "photos/cat.jpg", ["stage1", "stage4", "stage7"])',
        "The first maps of some stages, or of all. Deeper stages have smaller maps.",
        "A photograph of a cat and three rows of feature maps, from sharp edges in the first stage "
        "to a few coarse cells in the seventh.",
        wide=True,
    ),
    Picture(
        "gradcam_digits",
        "Grad-CAM of a small network.",
        "viz.gradcam(lenet5, data.test)",
        "For the first test images, at the last layer whose maps are larger than one pixel.",
        "Six handwritten digits above coarse heatmaps that follow some of their strokes.",
    ),
    Picture(
        "filters",
        "Filters.",
        "viz.filters(model, rows=4)",
        "The weights of the first convolution, or of any other.",
        "32 small color patches: edges in several directions, and spots of two colors.",
    ),
)

ARCHITECTURE = (
    Picture(
        "diagram",
        "Diagram.",
        "viz.diagram(cnnarch.resnet50())",
        "Each stage with its shape, parameters and multiply-adds. It needs no weights.",
        "Boxes from image to head for the stages of ResNet-50, each with its output shape and "
        "bars for its share of the parameters and multiply-adds.",
        wide=True,
    ),
    Picture(
        "block_diagram",
        "Block.",
        "viz.block_diagram(\n"
        "    cnnarch.blocks.Inception(192, 64, (96, 128), (16, 32), 32), (192, 28, 28)\n"
        ")",
        "The layers of any module, with its branches and shapes. [Blocks](blocks.md) shows more.",
        "Boxes for the layers of an Inception module: four branches of convolutions leave the "
        "input side by side and meet in a box with the word concat.",
        wide=True,
    ),
)

EXPLAIN = (
    Picture(
        "why_espresso",
        "Why espresso?",
        "cnnarch draw gradcam \\\n"
        "  photos/coffee.jpg --output why.png \\\n"
        "  --model efficientnet_lite0",
        "The map of the predicted class is brightest on the coffee and the cup.",
        "A cup of coffee with a spoon on a saucer, and below it the same photograph with a "
        "heatmap that is bright on the coffee and the cup, and dark elsewhere.",
    ),
    Picture(
        "why_spoon",
        "Why a wooden spoon?",
        'viz.gradcam(\n    model, "photos/coffee.jpg",\n    [classes.index("wooden spoon")],\n)',
        "The map of another class is brightest on the wooden table, the saucer and the spoon.",
        "The same cup of coffee, and below it a heatmap that is bright on the wooden table, the "
        "edge of the saucer and around the spoon, and dark on the coffee.",
    ),
)

GROUPS = {
    "training": TRAINING,
    "networks": NETWORKS,
    "architecture": ARCHITECTURE,
    "explain": EXPLAIN,
}
"""The pictures by the file that contains them."""


def all_pictures() -> list[Picture]:
    """Return the pictures of all pages."""
    return [picture for group in GROUPS.values() for picture in group]
