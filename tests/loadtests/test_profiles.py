import msgspec
import pytest

from loadtests.profiles import PROFILES, Habits, Phase, Profile, profile_named


def test_the_four_profiles_have_the_names_that_the_pages_use() -> None:
    assert list(PROFILES) == ["smoke", "steady", "spike", "soak"]
    assert [profile.name for profile in PROFILES.values()] == list(PROFILES)


def test_only_constant_loads_are_sent_by_loadgen() -> None:
    assert all(len(profile.phases) == 1 for profile in PROFILES.values() if "loadgen" in profile.generators)


def test_the_spike_is_above_the_capacity_and_ends() -> None:
    loads = [phase.load for phase in PROFILES["spike"].phases]
    assert max(loads) > 1 > loads[0] == loads[-1]


def test_a_profile_can_be_shortened_with_all_its_phases() -> None:
    profile = Profile(name="p", phases=(Phase(seconds=10, load=0.4), Phase(seconds=30, load=1.5)))
    assert profile.lasting(4).phases == (Phase(seconds=1, load=0.4), Phase(seconds=3, load=1.5))
    assert profile.seconds == 40


def test_a_profile_is_frozen() -> None:
    with pytest.raises(AttributeError):
        PROFILES["smoke"].name = "other"  # type: ignore[misc]


def test_bursts_shorten_the_mean_pause() -> None:
    assert Habits(pause_s=0.5, burst_share=0.3).mean_pause_s == pytest.approx(0.35)


def test_an_unknown_profile_is_told_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"^there is no profile 'stedy'\. Did you mean 'steady'\?$"):
        profile_named("stedy")
    with pytest.raises(ValueError, match="There are: smoke, steady, spike, soak"):
        profile_named("xyz")


def test_a_profile_travels_as_json() -> None:
    spike = PROFILES["spike"]
    assert msgspec.json.decode(msgspec.json.encode(spike), type=Profile) == spike
