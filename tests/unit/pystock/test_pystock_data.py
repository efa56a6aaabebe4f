"""The embedded data and their card; what a reader of prices meets when something is wrong; the live loader."""

import hashlib
import importlib.util
import re
import socket
from pathlib import Path
from unittest.mock import Mock

import arch.data.nasdaq
import arch.data.sp500
import numpy as np
import pandas as pd
import pytest
import yfinance
from curl_cffi.requests.exceptions import HTTPError
from messages import assert_on_page
from yfinance.data import YfData
from yfinance.exceptions import YFRateLimitError

from pystock import data
from pystock.data import DataError, download, load

ROOT = Path(__file__).resolve().parents[3]
CARD = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
FIRST_LINES = (
    "Date,Open,High,Low,Close,Adj Close,Volume\n"
    "2020-01-02,10.00,12.00,9.00,11.00,11.00,100\n"
    "2020-01-03,11.00,13.00,10.00,12.00,12.00,200\n"
    "2020-01-06,12.00,14.00,11.00,13.00,13.00,300\n"
)


def refusal(call, *arguments, **options) -> str:
    """The message of the DataError that the call ends in; one sentence on one line."""
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message, message
    return message


def test_files_are_made_again_byte_for_byte(tmp_path, capsys):
    """By `python data/make.py`, which the messages about a lost file advise; their checksums stand in the card."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "data" / "make.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.make(tmp_path)
    for market in data.MARKETS:
        content = (tmp_path / f"{market}.csv").read_bytes()
        assert content == (ROOT / "data" / f"{market}.csv").read_bytes()
        assert re.search(rf"`{market}\.csv`.*`{hashlib.sha256(content).hexdigest()}`", CARD)
    assert re.findall(r"[0-9a-f]{64}", capsys.readouterr().out) == re.findall(r"[0-9a-f]{64}", CARD)


@pytest.mark.parametrize(("market", "source"), [("sp500", arch.data.sp500), ("nasdaq", arch.data.nasdaq)])
def test_prices_are_those_of_arch_to_the_hundredth(market, source):
    expected, prices = source.load(), load(market)
    assert list(prices.columns) == list(expected.columns) and prices.index.equals(expected.index)
    assert prices.equals(prices.round(2))
    assert np.abs(prices[data.PRICES] - expected[data.PRICES]).to_numpy().max() < 0.0003
    assert (prices["Volume"] == expected["Volume"]).all()
    assert len(prices) == 5031 and (prices.dtypes[data.PRICES] == "float64").all() and prices["Volume"].dtype == "int64"


def test_card_shares_of_big_moves():
    periods = {"1999 to 2009": ("1999", "2009"), "2010 to 2014": ("2010", "2014"), "2015 to 2018": ("2015", "2018")}
    for name, (start, end) in (periods | {"2017 alone": ("2017", "2017")}).items():
        shares = []
        for market in data.MARKETS:
            moves = np.log(load(market)["Close"]).diff().dropna().abs() > 0.01
            shares.append(f"{100 * moves.loc[start:end].mean():.1f} %")
        assert re.search(rf"{name}.*\| {shares[0]} \| {shares[1]} \|", CARD), (name, shares)


def test_load_takes_both_ends():
    prices = load("sp500", "2001-09-10", "2001-09-17")
    assert list(prices.index.strftime("%d")) == ["10", "17"] and prices.loc["2001-09-17", "Close"] == 1038.77
    assert load("nasdaq", end="1999-01-05").index[-1] == pd.Timestamp("1999-01-05")


def test_load_refuses_a_wrong_request():
    assert "'tomorrow week'" in refusal(load, "sp500", "tomorrow week")
    assert "1999-01-04 to 2018-12-31" in refusal(load, "sp500", "2020-01-01")
    assert_on_page("is not an embedded market", refusal(load, "dax"))


def test_pystock_data_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSTOCK_DATA", str(tmp_path))
    message = refusal(load, "sp500")
    assert f"{tmp_path / 'sp500.csv'} is missing" in message and "data/make.py" in message
    (tmp_path / "sp500.csv").write_text(FIRST_LINES)
    assert load("sp500")["Close"].tolist() == [11, 12, 13]
    (tmp_path / "sp500.csv").write_text(FIRST_LINES.replace("2020-01-03", "03/01/2020"))  # a spreadsheet saved it
    assert_on_page("is invalid (", refusal(load, "sp500"))
    (tmp_path / "sp500.csv").write_bytes(b"\x80\x81\n")
    assert "it is not text" in refusal(load, "sp500")
    (tmp_path / "nasdaq.csv").mkdir()
    assert "cannot be read" in refusal(load, "nasdaq")
    monkeypatch.setenv("PYSTOCK_DATA", "")
    assert len(load("sp500")) == 5031


@pytest.mark.parametrize(("change", "reason"), [
    (lambda text: "", "middle of a line"),
    (lambda text: text.splitlines(keepends=True)[0], "no rows"),
    (lambda text: text[:-3], "middle of a line"),
    (lambda text: text[: text.rindex(",") + 1] + "\n", "2020-01-06 a value is missing"),
    (lambda text: text.replace("Adj Close", "Adjusted"), "Adjusted"),
    (lambda text: re.sub(r",[^,\n]*$", "", text, flags=re.MULTILINE), "not Date, Open, High, Low, Close"),
    (lambda text: text.replace("300", "300,1"), "line 4"),
    (lambda text: text.replace("2020-01-03", "2020-13-03"), "line 3 has no date"),
    (lambda text: text.replace("13.00,10.00", "13.00,ten"), "2020-01-03 a value is missing or not"),
    (lambda text: text.replace("2020-01-03", "2020-01-02"), "2020-01-02 the date is not after"),
    (lambda text: text.replace("2020-01-06", "2020-01-11"), "2020-01-11 the gap"),
    (lambda text: text.replace("9.00,", "0.00,"), "2020-01-02 a price is not positive"),
    (lambda text: text.replace("14.00", "12.50"), "2020-01-06 the high is below"),
    (lambda text: text.replace("13.00,10.00", "13.00,11.50"), "2020-01-03 the low is above"),
    (lambda text: text.replace(",200", ",-200"), "2020-01-03 the volume is negative"),
    (lambda text: text.replace("300", "-3").replace("13.00,10", "1.00,10"), "2020-01-03 the high"),
])  # fmt: skip
def test_load_names_the_damage(change, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSTOCK_DATA", str(tmp_path))
    (tmp_path / "sp500.csv").write_text(change(FIRST_LINES))
    message = refusal(load, "sp500")
    assert reason in message and str(tmp_path / "sp500.csv") in message and "data/make.py" in message


def test_validate_takes_a_frame_and_leaves_it_alone():
    prices = load("sp500", "2010-01-01", "2010-01-31")
    whole = prices.astype("object")
    assert data.validate(whole).equals(prices) and (whole.dtypes == "object").all()
    assert "Open, High" in refusal(data.validate, prices.drop(columns="Open"))


def chart(days, rows, zone="America/New_York"):
    """Yahoo's answer to a request for daily prices; rows of open, high, low, close, adjusted close, volume."""
    opening = [int((pd.Timestamp(day, tz=zone) + pd.Timedelta(hours=9, minutes=30)).timestamp()) for day in days]
    names = ("open", "high", "low", "close", "adjclose", "volume")
    quote = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    indicators = {"adjclose": [{"adjclose": quote.pop("adjclose")}], "quote": [quote]}
    meta = {"currency": "USD", "symbol": "TEST", "instrumentType": "INDEX", "exchangeTimezoneName": zone}
    meta |= {"timezone": "EST", "gmtoffset": -18000, "priceHint": 2, "dataGranularity": "1d", "validRanges": ["max"]}
    return {"chart": {"result": [{"meta": meta, "timestamp": opening, "indicators": indicators}], "error": None}}


NO_SUCH_TICKER = {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}}
NO_SUCH_DAYS = {"chart": {"result": None, "error": {"code": "Bad Request", "description": "No data for startDate"}}}


@pytest.fixture
def yahoo(monkeypatch, tmp_path):
    """Yahoo answers what the test says; yfinance parses it. Returns the parameters of each request."""
    yfinance.set_tz_cache_location(str(tmp_path))
    asked = []

    def answers(content, status=200):
        def get(self, url, params=None, timeout=30, **_):
            asked.append({"url": url, **(params or {})})
            if isinstance(content, Exception):
                raise content
            answer = Mock(status_code=status, text=str(content))
            answer.json.return_value = content(params) if callable(content) else content
            answer.json.side_effect = ValueError("Expecting value") if isinstance(content, str) else None
            answer.raise_for_status.side_effect = HTTPError("refused", 0, answer) if status >= 400 else None
            return answer

        monkeypatch.setattr(YfData, "get", get)
        monkeypatch.setattr(YfData, "cache_get", get)
        return asked

    return answers


DAYS = ["2020-01-02", "2020-01-03", "2020-01-06"]
ROWS = [(10.0, 12.0, 9.0, 11.0, 5.5, 100), (11.0, 13.0, 10.0, 12.123456, 6.1, 0), (12.0, 14.0, 11.0, 13.0, 6.5, 300)]


def test_download_has_the_layout_of_load(yahoo, tmp_path, monkeypatch, caplog, capsys):
    asked = yahoo(chart(DAYS, ROWS))
    prices = download("^GSPC", "2020-01-02", "2020-01-06")
    expected = pd.DataFrame(ROWS, index=pd.DatetimeIndex(DAYS, name="Date"), columns=data.COLUMNS)
    pd.testing.assert_frame_equal(prices, expected)  # closes as quoted: not adjusted, not rounded
    embedded = load("sp500")
    assert (prices.dtypes == embedded.dtypes).all() and prices.index.dtype == embedded.index.dtype
    last = pd.Timestamp(asked[-1]["period2"], unit="s", tz="UTC").tz_convert("America/New_York")
    assert last == pd.Timestamp("2020-01-07", tz="America/New_York")  # Yahoo leaves the end out, we do not
    monkeypatch.setenv("PYSTOCK_DATA", str(tmp_path))
    prices.to_csv(tmp_path / "sp500.csv")
    pd.testing.assert_frame_equal(load("sp500"), prices)
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_download_refuses_a_long_gap_and_takes_weekends(yahoo):
    yahoo(chart(["2020-01-02", "2020-01-03", "2020-01-13"], ROWS))
    assert "on 2020-01-13 the gap" in refusal(download, "000001.SS", "2020-01-01", "2020-01-31")
    days = ["2020-01-02", "2020-01-03", "2020-01-05"]  # a coin trades at the weekend, too
    yahoo(chart(days, ROWS, zone="UTC"))
    assert list(download("BTC-USD", "2020-01-02", "2020-01-05").index.strftime("%Y-%m-%d")) == days


@pytest.mark.parametrize(("content", "status", "reason"), [
    (NO_SUCH_TICKER, 404, "no daily prices"),
    (lambda params: chart(DAYS, ROWS) if params.get("range") == "1d" else NO_SUCH_DAYS, 200, "no daily prices"),
    (chart(DAYS, [ROWS[0], (11.0, 11.5, 10.0, 12.0, 12.0, 100), ROWS[2]]), 200, "on 2020-01-03 the high is below"),
    ("<html>Please log in</html>", 200, "is unusable"),
    ("Internal error", 500, "is unusable"),
    (YFRateLimitError(), 0, "Too Many Requests"),
])  # fmt: skip
def test_download_says_what_yahoo_answered(yahoo, content, status, reason):
    yahoo(content, status)
    message = refusal(download, "NOSUCH", "2020-01-02", "2020-01-06")
    assert reason in message and "'NOSUCH' from 2020-01-02 to 2020-01-06" in message


def test_download_offline_names_the_embedded_data(monkeypatch, tmp_path, caplog, capsys):
    """Nothing is faked but the way out: a proxy on a port where nobody listens."""
    yfinance.set_tz_cache_location(str(tmp_path))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
            proxy = "" if name == "no_proxy" else f"http://127.0.0.1:{unused.getsockname()[1]}"
            monkeypatch.setenv(name, proxy)
            monkeypatch.setenv(name.upper(), proxy)
        before = yfinance.config.debug.hide_exceptions
        message = refusal(download, "OFFLINE-TEST", "2020-01-02", "2020-01-06")
    assert_on_page("Yahoo is unreachable", message)
    assert "load('sp500')" in message
    assert not caplog.records and capsys.readouterr() == ("", "")
    assert yfinance.config.debug.hide_exceptions is before
