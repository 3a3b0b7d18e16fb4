"""images -> Output. `create_model` assembles a backbone and a head; both are chosen by name."""

from mien.models.backbone import Backbone
from mien.models.classifier import Classifier, create_model
from mien.models.heads import HEADS
from mien.models.transformer import Alignment

__all__ = ["HEADS", "Alignment", "Backbone", "Classifier", "create_model"]
