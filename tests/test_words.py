"""What explanations say: regions for what the map shows, units only where they were measured."""

from mien.predict.results import Region
from mien.predict.words import LEAST_SHARE, effect_words, map_words, sentence

SMILE = {
    "cheeks": Region(0.43, 0.1),
    "mouth": Region(0.36, 0.82),
    "eyes": Region(0.1, 0.0),
    "elsewhere": Region(0.11, 0),
}
BOTH = {"AU12": ("AU12_L", "AU12_R"), "AU25": ("AU25",), "AU4": ("AU4_L",)}


def test_regions_and_measured_units():
    assert sentence("Happiness", "Neutral", SMILE, BOTH, ["AU6", "AU12", "AU25"]) == (
        "Happiness rather than Neutral: the map lies on the cheeks and mouth; blurring the mouth lowers Happiness by 82 "
        "points; measured there: AU12 both sides, AU25."
    )


def test_no_unit_is_named_that_is_not_measured():
    told = sentence("Happiness", "Neutral", SMILE, {}, ["AU12", "AU25"])
    assert "measured there" not in told
    assert told.endswith("; no unit of Happiness is measured (AU12, AU25 were looked for).")
    without = sentence("Happiness", "Neutral", SMILE, {}, [])
    assert "AU" not in without


def test_units_outside_the_map_are_not_said_to_be_there():
    told = sentence("Anger", "Sadness", {"mouth": Region(1.0, None)}, {"AU4": ("AU4_L", "AU4_R")}, ["AU4", "AU7"])
    assert told == "Anger rather than Sadness: the map lies on the mouth."


def test_one_side_is_named():
    told = sentence("Contempt", "Neutral", {"mouth": Region(1, None)}, {"AU14": ("AU14_R",)}, ["AU12", "AU14"])
    assert told.endswith("measured there: AU14 right.")


def test_where_the_map_lies():
    def shares(**values):
        return {name: Region(value, None) for name, value in values.items()}

    assert map_words(shares(mouth=0.0)) == ("the map is empty", ())
    assert map_words(shares(elsewhere=1.0))[0] == "the map lies outside the face"
    assert map_words(shares(elsewhere=0.6, mouth=0.4))[0] == "the map lies outside the face and on the mouth"
    assert map_words(shares(mouth=0.6, elsewhere=0.4))[0] == "the map lies on the mouth, and outside the face"
    assert map_words(shares(mouth=0.3, brows=0.25, eyes=0.25, nose=0.2))[1] == ("mouth", "brows", "eyes")
    assert map_words(shares(mouth=0.1, brows=LEAST_SHARE / 2)) == ("the map lies on the mouth", ("mouth",))


def test_effects_in_words():
    assert effect_words("Fear", {"brows": Region(0.3, -0.5), "mouth": Region(0.6, 0.4)}) == (
        "blurring the brows raises Fear by 50 points"
    )
    assert effect_words("Fear", {"nose": Region(0.4, 0.004)}) == "blurring any one region changes nothing"
    assert effect_words("Fear", {"elsewhere": Region(1, 0.01)}) == "blurring all but the face lowers Fear by 1 point"
    assert effect_words("Fear", {"nose": Region(0.4, None)}) == ""
