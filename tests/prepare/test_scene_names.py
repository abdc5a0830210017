"""Scenes of a listing, from its folders or file names."""

import pytest

from swancli.prepare.scene_names import found_scenes, letters_before_number


def numbered(*patterns, count=5):
    """Names of files: each pattern with the numbers from 1."""
    return [pattern.format(number) for pattern in patterns for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("filename", "letters"),
    [
        ("port_167.jpg", "port"),
        ("airplane00.tif", "airplane"),
        ("tennis_court_12.png", "tennis_court"),
        ("golf-course-3.png", "golf-course"),
        ("deep/Airport_1.jpg", "Airport"),
        ("\u0646\u0647\u0631_\u0661.jpg", "\u0646\u0647\u0631"),
        ("Fore\u0302t_1.jpg", "For\xeat"),  # as macOS writes the name; the scene is that of other systems
        ("\u0928\u0926\u0940_7.jpg", "\u0928\u0926\u0940"),  # a vowel sign is a mark, not a letter
        ("00578.jpg", None),
        ("tile_12_34.png", None),
        ("port.jpg", None),
        ("_12.jpg", None),
        ("port__12.jpg", None),
        ("IMG_20240101_120000.jpg", None),
    ],
)
def test_letters_before_the_number_of_a_file_name(filename, letters):
    assert letters_before_number(filename) == letters


@pytest.mark.parametrize(
    "names",
    [
        numbered("DJI_{:04}.JPG"),
        numbered("P1000{:03}.JPG"),
        numbered("IMG_20240101_12000{}.jpg"),
        numbered("tile_0_{}.png"),
        numbered("DJI_{:04}.JPG", "IMG_{:04}.JPG", "DSCF{:04}.JPG", "photo{}.jpg"),  # several cameras
        numbered("DJI_Mavic_{:04}.JPG", "GOPR{:04}.JPG"),
        numbered("Seoul{}.jpg"),  # one scene over all says nothing
        numbered("train_{}.jpg", "test_{}.jpg", "val_{}.jpg"),
        numbered("A{}.tif", "B{}.tif", "C{}.tif"),  # sheets of a map
        ["house1.jpg", "field2.jpg", "road3.jpg", "river4.jpg"],  # none is shared
        numbered("house_{}.jpg", "road_{}.jpg", count=2) + numbered("{:05}.jpg", count=6),  # most follow not
        numbered("12/656/{}.png", "12/657/{}.png"),  # tiles of a web map
        numbered("2024-05-01/{}.jpg", "2024-05-02/{}.jpg"),
        numbered("DCIM/100MSDCF/DSC{:05}.JPG", "DCIM/101MSDCF/DSC{:05}.JPG"),
        numbered("flight1/{}.jpg", "flight2/{}.jpg", "flight3/{}.jpg"),
        numbered("train/{}.jpg", "val/{}.jpg"),
        numbered("tiles-000.tar/{}.jpg", "tiles-001.tar/{}.jpg"),
        numbered("harbor/{}.jpg"),
        [],
        ["river_1.jpg"],
    ],
    ids=lambda names: names[0] if names else "nothing",
)
def test_names_that_say_nothing_about_the_scene_give_none(names):
    found = found_scenes(names)
    assert (set(found.scene) <= {None}, found.taken) == (True, "none")


@pytest.mark.parametrize(
    ("names", "scenes", "taken"),
    [
        (numbered("river_{}.jpg", "port_{}.jpg"), ["river", "port"], "from file names"),
        (numbered("train_station_{}.jpg", "port_{}.jpg"), ["train_station", "port"], "from file names"),
        (numbered("train/river_{}.jpg", "test/port_{}.jpg"), ["river", "port"], "from file names"),
        (numbered("\u6cb3_{}.jpg", "\u6e2f_{}.jpg"), ["\u6cb3", "\u6e2f"], "from file names"),
        (numbered("t-0.tar/river_{}.jpg", "t-1.tar/port_{}.jpg"), ["river", "port"], "from file names"),
        (numbered("river/{}.jpg", "port/DJI_{}.JPG"), ["river", "port"], "from folders"),
        (numbered("train/river/{}.jpg", "test/port/{}.jpg"), ["river", "port"], "from folders"),
        (numbered("river/2024-05-01/{}.jpg", "port/100MSDCF/{}.jpg"), ["river", "port"], "from folders"),
        (numbered("river/drone_{}.jpg", "port/plane_{}.jpg"), ["river", "port"], "from folders"),
        (numbered("river.tar/{}.jpg", "port.tar/{}.jpg"), ["river", "port"], "from folders"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_scenes_that_several_images_share_are_taken(names, scenes, taken):
    found = found_scenes(names)
    assert found.scene == [scene for scene in scenes for _ in range(5)]
    assert found.taken == taken


def test_images_that_do_not_follow_the_pattern_have_no_scene():
    found = found_scenes([*numbered("river_{}.jpg", "port_{}.jpg"), "00001.jpg", "lake_1.jpg", "DJI_1.JPG"])
    assert found.scene == ["river"] * 5 + ["port"] * 5 + [None, "lake", None]


@pytest.mark.parametrize(
    ("rule", "scenes"),
    [
        ("name", ["DJI", None, "river"]),
        ("folder", ["flight1", "2024", None]),
        ("none", [None] * 3),
    ],
)
def test_rule_that_is_given_takes_what_is_there(rule, scenes):
    assert found_scenes(["flight1/DJI_1.JPG", "a/2024/x.jpg", "river_1.jpg"], rule).scene == scenes


@pytest.mark.parametrize("rule", [None, "folder"])
def test_scene_from_a_name_that_is_not_utf8_is_text_that_can_be_shown(rule):
    found = found_scenes(numbered("caf\udce9/{}.jpg", "port/{}.jpg"), rule)
    assert found.scene == ["caf\\xe9"] * 5 + ["port"] * 5


def test_scenes_do_not_depend_on_the_order_of_the_names():
    names = [*numbered("river_{}.jpg", "port_{}.jpg"), "00001.jpg"]
    there = dict(zip(names, found_scenes(names).scene, strict=True))
    assert found_scenes(names[::-1]).scene == [there[name] for name in names[::-1]]
