"""What is forecast of a rate that stays, that grows, and that comes back every day."""

from __future__ import annotations

import pytest

from serve.autoscaling.rate_forecast import DAY_S, RateForecast


def test_a_rate_that_stays_is_forecast_to_stay_without_a_reserve() -> None:
    forecast = RateForecast(level_s=60, trend_s=180)
    for tick in range(100):
        forecast.note(10.0 * tick, 5.0, ahead_s=60)
    assert forecast.at(60) == pytest.approx(5)
    believed, factor = forecast.within(60, beyond=0.01, guess=1.1)
    assert believed * factor == pytest.approx(5, rel=0.03)


def test_a_rate_that_grows_is_forecast_to_go_on_and_one_that_jumps_asks_for_a_reserve() -> None:
    growing, jumping = RateForecast(level_s=60, trend_s=180), RateForecast(level_s=60, trend_s=180)
    for tick in range(100):
        growing.note(10.0 * tick, 5 + 0.1 * tick, ahead_s=60)
        jumping.note(10.0 * tick, 5.0 if tick // 10 % 2 else 10.0, ahead_s=60)
    assert growing.at(60) > growing.level
    assert growing.at(60) == pytest.approx(5 + 0.1 * 105, rel=0.07)
    believed, factor = jumping.within(60, beyond=0.01, guess=1.1)
    assert 9 < believed * factor < 16


def test_bursts_shorter_than_a_replica_takes_to_come_up_are_not_followed_but_borne() -> None:
    forecast, bounds = RateForecast(level_s=60, trend_s=180), []
    for tick in range(360):
        forecast.note(10.0 * tick, 12.0 if tick % 30 in (0, 1, 2) else 4.0, ahead_s=60)
        believed, factor = forecast.within(60, beyond=0.01, guess=1.1)
        bounds.append(believed * factor)
    assert 10 < min(bounds[-90:]) <= max(bounds[-90:]) < 14


def test_nothing_is_learned_from_a_few_forecasts() -> None:
    forecast = RateForecast(level_s=60, trend_s=180)
    for tick in range(10):
        forecast.note(10.0 * tick, 5.0, ahead_s=60)
    assert forecast.within(60, beyond=0.01, guess=1.3) == (pytest.approx(5), 1.3)


def test_the_second_day_knows_when_the_rate_rises() -> None:
    forecast = RateForecast(level_s=60, trend_s=180)
    for minute in range(2 * 1440 - 725):  # until before noon of the second day, when it doubles
        forecast.note(60.0 * minute, 8.0 if minute % 1440 >= 720 else 4.0, ahead_s=600)
    assert minute < 2 * DAY_S / 60
    assert forecast.at(600) == pytest.approx(8, rel=0.1)
    assert forecast.level == pytest.approx(4, rel=0.1)
