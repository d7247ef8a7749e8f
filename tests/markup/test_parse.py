"""XML → values: what is read, what is forgiven with a warning, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from markup import (
    Application,
    Client,
    Conference,
    Config,
    ConversationRelay,
    Dial,
    Document,
    Enqueue,
    Gather,
    Hangup,
    Header,
    Language,
    MarkupError,
    Number,
    Parameter,
    Pause,
    Play,
    Record,
    Recording,
    Redirect,
    Refer,
    ReferSip,
    Reject,
    Say,
    Sip,
    SipUri,
    Ssml,
    Start,
    Stop,
    Stream,
    Transcription,
    parse,
)
from markup.document import MAX_PROBLEMS
from markup.ssml import MAX_SSML_DEPTH


def read(inside: str) -> Document:
    return parse(f"<Response>{inside}</Response>")


def one(inside: str) -> object:
    """The only verb of a document that has nothing wrong."""
    document = read(inside)
    assert document.problems == ()
    (verb,) = document.verbs
    return verb


def codes(inside: str) -> list[int]:
    return [problem.code for problem in read(inside).problems]


def outcome(source: bytes | str) -> Document | int:
    """The document, or the code it was refused with; any other exception is a failure of the test."""
    try:
        return parse(source)
    except MarkupError as error:
        return error.code


READS = [
    (
        '<Say voice="alice" language="en-GB" loop="0">Hi</Say>',
        Say("Hi", voice="alice", language="en-GB", loop=0),
    ),
    ("<Play>\n  /a.mp3\n</Play>", Play("/a.mp3")),
    ('<Play digits="1w2W#"/>', Play(digits="1w2W#")),
    ('<Pause length="7"/>', Pause(length=7)),
    (
        '<Gather input="speech dtmf" timeout="0" numDigits="4" finishOnKey="" speechTimeout="auto" action="/g" '
        'method="get" actionOnEmptyResult="True" bargeIn="FALSE" hints="a, b">'
        "<Say>x</Say><Pause/><Play>u</Play></Gather>",
        Gather(
            [Say("x"), Pause(), Play("u")],
            input=("speech", "dtmf"),
            timeout=0,
            num_digits=4,
            finish_on_key="",
            speech_timeout="auto",
            action="/g",
            method="GET",
            action_on_empty_result=True,
            barge_in=False,
            hints="a, b",
        ),
    ),
    (
        '<Record maxLength="30" finishOnKey="*" playBeep="false" trim="do-not-trim" timeout="0"/>',
        Record(max_length=30, finish_on_key="*", play_beep=False, trim="do-not-trim", timeout=0),
    ),
    ("<Dial>\n +15551234567 \n</Dial>", Dial("+15551234567")),
    (
        '<Dial record="true" ringTone="us-old">1</Dial>',
        Dial("1", record="record-from-answer", ring_tone="us-old"),
    ),
    (
        '<Dial><Number sendDigits="ww1" machineDetectionTimeout="60" url="/w">1</Number>'
        "<Client><Identity> bob </Identity><Parameter name='a' value='b'/></Client><Client>joe</Client></Dial>",
        Dial(
            nouns=[
                Number("1", send_digits="ww1", machine_detection_timeout=60, url="/w"),
                Client("bob", [Parameter(name="a", value="b")]),
                Client("joe"),
            ]
        ),
    ),
    (
        '<Dial><Sip username="u" password="p">sip:a@b.c;transport=tcp?X-Id=7'
        '<Headers><Header name="X-A" value="1"/></Headers></Sip>'
        '<Sip><Uri priority="1" weight="2">sips:d@e</Uri></Sip></Dial>',
        Dial(
            nouns=[
                Sip(
                    "sip:a@b.c;transport=tcp?X-Id=7",
                    headers=[Header(name="X-A", value="1")],
                    username="u",
                    password="p",
                ),
                Sip(uris=[SipUri("sips:d@e", priority=1, weight=2)]),
            ]
        ),
    ),
    (
        '<Dial><Conference beep="onEnter" waitUrl="" maxParticipants="2" statusCallbackEvent="start end" '
        'startConferenceOnEnter="false">Room 1</Conference></Dial>',
        Dial(
            nouns=[
                Conference(
                    "Room 1",
                    beep="onEnter",
                    wait_url="",
                    max_participants=2,
                    status_callback_event=("start", "end"),
                    start_conference_on_enter=False,
                )
            ]
        ),
    ),
    (
        "<Dial><Application copyParentTo='true'><ApplicationSid>AP1</ApplicationSid></Application></Dial>",
        Dial(nouns=[Application("AP1", copy_parent_to=True)]),
    ),
    (
        '<Enqueue waitUrl="/w" waitUrlMethod="GET">support</Enqueue>',
        Enqueue("support", wait_url="/w", wait_url_method="GET"),
    ),
    ("<Hangup><Parameter name='a' value=''/></Hangup>", Hangup([Parameter(name="a")])),
    ("<Redirect></Redirect>", Redirect("")),
    ('<Redirect method="GET">/x?a=1&amp;b=2</Redirect>', Redirect("/x?a=1&b=2", method="GET")),
    ('<Reject reason="busy"/>', Reject(reason="busy")),
    ("<Refer><Sip>sip:x@y</Sip></Refer>", Refer([ReferSip("sip:x@y")])),
    (
        '<Start><Stream url="wss://h/s" track="both_tracks"><Parameter name="k" value="v"/></Stream>'
        '<Recording channels="mono"/>'
        '<Transcription languageCode="de-DE"><Config name="a" value="b"/></Transcription></Start>',
        Start(
            [
                Stream([Parameter(name="k", value="v")], url="wss://h/s", track="both_tracks"),
                Recording(channels="mono"),
                Transcription(configs=[Config(name="a", value="b")], language_code="de-DE"),
            ]
        ),
    ),
    ('<Stop><Stream name="s"/></Stop>', Stop([Stream(name="s")])),
]


@pytest.mark.parametrize(("xml", "value"), READS, ids=[type(value).__name__ for _, value in READS])
def test_attributes_given_are_read_into_values(xml: str, value: object) -> None:
    assert one(xml) == value


def test_a_relay_reads_its_languages() -> None:
    xml = '<Connect><ConversationRelay url="wss://h" interruptible="true">'
    xml += '<Language code="sv-SE" voice="v"/></ConversationRelay></Connect>'
    (relay,) = one(xml).nouns  # type: ignore[attr-defined]
    assert relay == ConversationRelay([Language(code="sv-SE", voice="v")], url="wss://h", interruptible="any")


def test_missing_attributes_have_the_references_defaults() -> None:
    gather, record, dial, conference = Gather(), Record(), Dial("1"), Conference("r")
    assert (gather.timeout, gather.finish_on_key, gather.input, gather.action) == (5, "#", ("dtmf",), None)
    assert (gather.num_digits, gather.speech_timeout, gather.barge_in) == (None, None, True)
    assert (record.timeout, record.max_length, record.finish_on_key) == (5, 3600, "1234567890*#")
    assert (record.trim, dial.trim, conference.trim) == ("trim-silence", "do-not-trim", "trim-silence")
    assert (dial.timeout, dial.time_limit, dial.caller_id, dial.action) == (30, 14_400, None, None)
    assert (conference.wait_url, conference.wait_method, conference.beep) == (None, None, "true")
    assert (Recording().channels, Transcription().track, Stream().track) == (
        "dual",
        "both_tracks",
        "inbound_track",
    )
    assert (Reject().reason, Redirect().url, Pause().length, Say("x").voice) == ("rejected", "", 1, "man")
    assert Number("1").status_callback_event == ("completed",)
    assert one("<Gather/>") == gather
    assert one("<Record/>") == record
    assert one("<Dial>1</Dial>") == dial


BAD = [
    ('<Say loop="x">a</Say>', 13510, "loop", 1),
    ('<Say loop="-1">a</Say>', 13510, "loop", 1),
    ('<Say loop="5000">a</Say>', 13510, "loop", 1000),
    ('<Say language="english please">a</Say>', 13512, "language", "en-US"),
    ('<Play loop="1.5">a</Play>', 13410, "loop", 1),
    ('<Play digits="1x">a</Play>', 13430, "digits", None),
    ('<Pause length="0"/>', 13910, "length", 1),
    ('<Gather finishOnKey="12"/>', 13310, "finish_on_key", "#"),
    ('<Gather method="PUT"/>', 13312, "method", "POST"),
    ('<Gather timeout="soon"/>', 13313, "timeout", 5),
    ('<Gather timeout="٣"/>', 13313, "timeout", 5),
    (f'<Gather timeout="{"9" * 5000}"/>', 13313, "timeout", 5),
    ('<Gather numDigits="0"/>', 13314, "num_digits", None),
    ('<Gather input="eyes"/>', 13326, "input", ("dtmf",)),
    ('<Gather input="dtmf eyes"/>', 13326, "input", ("dtmf",)),
    ('<Gather speechTimeout="0"/>', 13327, "speech_timeout", None),
    ('<Gather maxSpeechTime="61"/>', 13328, "max_speech_time", 60),
    ('<Gather partialResultCallbackMethod="x"/>', 13329, "partial_result_callback_method", "POST"),
    ('<Gather language=""/>', 13331, "language", "en-US"),
    ('<Gather bargeIn="yes"/>', 13332, "barge_in", True),
    ('<Gather profanityFilter="1"/>', 13333, "profanity_filter", True),
    ('<Gather speechModel="oracle"/>', 13334, "speech_model", "default"),
    ('<Record method="x"/>', 13610, "method", "POST"),
    ('<Record timeout="-1"/>', 13611, "timeout", 5),
    ('<Record maxLength="1"/>', 13612, "max_length", 2),
    ('<Record finishOnKey="A"/>', 13613, "finish_on_key", "1234567890*#"),
    ('<Record transcribe="x"/>', 13614, "transcribe", False),
    ('<Record playBeep="x"/>', 13616, "play_beep", True),
    ('<Record trim="x"/>', 13699, "trim", "trim-silence"),
    ('<Dial method="x">1</Dial>', 13210, "method", "POST"),
    ('<Dial timeout="601">1</Dial>', 13212, "timeout", 600),
    ('<Dial timeout="4">1</Dial>', 13212, "timeout", 5),
    ('<Dial hangupOnStar="x">1</Dial>', 13213, "hangup_on_star", False),
    ('<Dial callerId="&quot;a&quot; &lt;sip:x&gt;">1</Dial>', 13214, "caller_id", None),
    ('<Dial timeLimit="x">1</Dial>', 13216, "time_limit", 14_400),
    ('<Dial record="x">1</Dial>', 13217, "record", "do-not-record"),
    ('<Dial sequential="x">1</Dial>', 13218, "sequential", False),
    ('<Dial answerOnBridge="x">1</Dial>', 13219, "answer_on_bridge", False),
    ('<Dial ringTone="xx">1</Dial>', 13220, "ring_tone", None),
    ('<Dial recordingTrack="x">1</Dial>', 13622, "recording_track", "both"),
    ('<Enqueue method="x">q</Enqueue>', 14201, "method", "POST"),
    ('<Enqueue waitUrl="a b">q</Enqueue>', 14202, "wait_url", None),
    ('<Enqueue waitUrlMethod="x">q</Enqueue>', 14206, "wait_url_method", None),
    ('<Redirect method="x">u</Redirect>', 13710, "method", "POST"),
    ('<Reject reason="tired"/>', 13810, "reason", "rejected"),
    ('<Reject reason="Busy"/>', 13810, "reason", "busy"),
]


@pytest.mark.parametrize(("xml", "code", "field", "value"), BAD, ids=[f"{row[1]}-{row[2]}" for row in BAD])
def test_a_bad_value_warns_with_its_code_and_the_default_or_the_ranges_end_is_used(
    xml: str, code: int, field: str, value: object
) -> None:
    document = read("\n" + xml)
    assert getattr(document.verbs[0], field) == value
    (problem,) = document.problems
    assert (problem.code, problem.line, problem.column) == (code, 2, 0)
    assert f"<{problem.verb}>" in problem.message
    assert problem.attribute.lower() == field.replace("_", "")
    assert len(problem.message) < 400


def test_a_clamped_value_says_so_and_a_defaulted_one_names_the_default() -> None:
    (clamped,) = read('<Dial timeout="601">1</Dial>').problems
    assert clamped.message == "<Dial> timeout: 601 is above 600 and was clamped to it"
    (defaulted,) = read('<Dial timeout="x">1</Dial>').problems
    assert defaulted.message == "<Dial> timeout: 'x' is not a whole number; the default (30) is used"


NOUNS = [
    ('<Number method="x">1</Number>', 13221, "warning"),
    ('<Number sendDigits="?">1</Number>', 13222, "warning"),
    ("<Number/>", 13223, "warning"),
    ('<Number machineDetectionTimeout="2">1</Number>', 12200, "warning"),
    ('<Sip method="x">sip:a@b</Sip>', 13241, "warning"),
    ("<Sip>bob</Sip>", 13243, "warning"),
    ("<Sip/>", 13243, "warning"),
    ("<Sip>sip:a@b?Contact=evil</Sip>", 13252, "warning"),
    (f"<Sip>sip:a@b?X-A={'1' * 1100}</Sip>", 13253, "warning"),
    ("<Client>two words</Client>", 12200, "warning"),
    ('<Conference muted="x">r</Conference>', 13230, "warning"),
    ('<Conference endConferenceOnExit="x">r</Conference>', 13231, "error"),
    ('<Conference startConferenceOnEnter="x">r</Conference>', 13232, "warning"),
    ('<Conference waitMethod="x">r</Conference>', 13234, "warning"),
    ('<Conference beep="x">r</Conference>', 13235, "warning"),
    ("<Conference/>", 13237, "warning"),
    ('<Conference coach="x">r</Conference>', 13240, "error"),
    ('<Conference participantLabel="a/b">r</Conference>', 16025, "warning"),
    ('<Conference recordingStatusCallbackEvent="x">r</Conference>', 13621, "error"),
    ('<Queue method="x">q</Queue>', 14210, "error"),
    ("<Gather/>", 13215, "warning"),
]


@pytest.mark.parametrize(("xml", "code", "level"), NOUNS)
def test_a_noun_warns_with_its_own_code(xml: str, code: int, level: str) -> None:
    problem = read(f"<Dial>{xml}</Dial>").problems[0]
    assert (problem.code, problem.level) == (code, level)


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ("<Say/>", [13520]),
        ("<Say>  \n </Say>", [13520]),
        (f"<Say>{'x' * 4097}</Say>", [13521]),
        (f'<Say voice="Google.x">{"x" * 4097}</Say>', []),
        (f'<Say voice="Polly.x">{"x" * 3001}</Say>', [13521]),
        ("<Play/>", [12200]),
        ('<Gather speechTimeout="auto" speechModel="phone_call"/>', [13335]),
        ('<Gather><Play digits="1"/></Gather>', [13320]),
        ("<Dial/>", [13223]),
        ("<Dial>1<Number>2</Number></Dial>", [13215]),
        ("<Dial><Conference>r</Conference><Number>2</Number></Dial>", [13215]),
        ("<Enqueue/>", [14204]),
        (f"<Enqueue>{'q' * 65}</Enqueue>", [14205]),
        ("<Start/>", [12200]),
        ("<Connect><Stream/></Connect>", [12200]),
        ("<Stop><Stream/></Stop>", []),
        ('<Start><Stream url="http://h"/></Start>', [12200, 12200]),
        ('<Start><Stream url="ws://127.0.0.1/s"/></Start>', []),
        ("<Connect><ConversationRelay/></Connect>", [12200]),
        ("<Pay/>", [12200]),
        ("<Record>x</Record>", [12200]),
        ("<Hangup><Parameter value='1'/></Hangup>", [12200]),
        ("<Dial><Sip>sip:a@b<Headers><Header value='1'/></Headers></Sip></Dial>", [13252]),
        ("<Dial><Sip>sip:a@b<Headers><Say>x</Say></Headers></Sip></Dial>", [13251]),
    ],
)
def test_an_element_is_checked_as_a_whole(xml: str, expected: list[int]) -> None:
    assert codes(xml) == expected


class TestLenient:
    """Section 5 of the reference: what real apps and SDKs emit."""

    def test_the_python_sdks_literal_list_is_a_list(self) -> None:
        verb = one("""<Dial><Number statusCallbackEvent="['initiated', 'ringing']">1</Number></Dial>""")
        assert verb == Dial(nouns=[Number("1", status_callback_event=("initiated", "ringing"))])

    def test_a_wrong_case_attribute_is_skipped_with_a_suggestion(self) -> None:
        document = read('<Gather\n numdigits="1"/>')
        assert document.verbs == (Gather(),)
        (problem,) = document.problems
        assert (problem.code, problem.level, problem.verb, problem.attribute) == (
            12200,
            "warning",
            "Gather",
            "numdigits",
        )
        assert "did you mean 'numDigits'" in problem.message

    def test_an_unknown_attribute_far_from_any_name_has_no_suggestion(self) -> None:
        (problem,) = read('<Sms fromState="CA">x</Sms>').problems
        assert problem.code == 12200
        assert "did you mean" not in problem.message

    @pytest.mark.parametrize(
        ("tag", "right"), [("say", "Say"), ("SAY", "Say"), ("Gathr", "Gather"), ("HangUp", "Hangup")]
    )
    def test_a_wrong_case_verb_is_skipped_with_a_suggestion(self, tag: str, right: str) -> None:
        document = read(f"<{tag}>x</{tag}><Hangup/>")
        assert document.verbs == (Hangup(),)
        assert f"did you mean '{right}'" in document.problems[0].message

    def test_a_verb_that_cannot_nest_is_skipped_and_its_neighbours_are_kept(self) -> None:
        document = read("<Gather><Say>a</Say><Dial>1</Dial><Record/><Pause/></Gather>")
        assert document.verbs == (Gather([Say("a"), Pause()]),)
        assert [problem.code for problem in document.problems] == [13320, 13320]

    def test_a_noun_at_the_top_and_a_noun_of_another_verb_are_skipped(self) -> None:
        assert read("<Number>1</Number>").verbs == ()
        document = read("<Connect><Recording/></Connect>")
        assert document.problems[0].code == 12200

    def test_only_ten_of_a_kind_are_rung(self) -> None:
        document = read(f"<Dial>{'<Number>1</Number>' * 12}<Client>c</Client></Dial>")
        assert len(document.verbs[0].nouns) == 11  # type: ignore[union-attr]
        assert [problem.code for problem in document.problems] == [13215, 13215]

    def test_comments_instructions_and_cdata(self) -> None:
        assert one("<!-- a --><Say>a<!-- b -->b<?x y?><![CDATA[<c>]]></Say><?z?>") == Say("ab<c>")

    def test_a_schema_hint_on_the_root_is_no_problem(self) -> None:
        hint = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="x.xsd"'
        assert parse(f"<Response {hint}><Leave/></Response>").problems == ()

    def test_a_foreign_namespace_is_no_verb(self) -> None:
        document = read('<x:Say xmlns:x="urn:x">a</x:Say><Leave/>')
        assert len(document.verbs) == 1
        assert document.problems[0].code == 12200

    def test_the_line_is_that_of_the_element(self) -> None:
        document = read("\n<Pause/>\n\n<Gather>\n<Say>x</Say></Gather>")
        assert [verb.line for verb in document.verbs] == [2, 4]
        assert document.verbs[1].verbs[0].line == 5  # type: ignore[union-attr]

    def test_text_between_verbs_is_noted(self) -> None:
        assert codes("hello<Leave/>world") == [12200]


class TestSpeech:
    def test_mixed_content_as_text_and_as_markup(self) -> None:
        say = one(
            '<Say>\n Pay <say-as interpret-as="date" format="mdy">1/2</say-as> &amp;<break time="500ms"/>go\n</Say>'
        )
        assert isinstance(say, Say)
        assert say.text == "Pay 1/2 & go"
        assert say.ssml == (
            '\n Pay <say-as format="mdy" interpret-as="date">1/2</say-as> &amp;<break time="500ms"/>go\n'
        )
        assert say.content[1] == Ssml("say-as", (("format", "mdy"), ("interpret-as", "date")), ("1/2",))

    def test_text_alone_has_no_markup(self) -> None:
        say = one("<Say>  a\n\tb </Say>")
        assert isinstance(say, Say)
        assert (say.text, say.ssml) == ("a b", None)

    def test_paragraphs_part_words_inline_elements_do_not_and_sub_speaks_its_alias(self) -> None:
        say = one('<Say><p>a</p><p>b</p>c<emphasis>d</emphasis> <sub alias="World Wide Web">W3</sub></Say>')
        assert isinstance(say, Say)
        assert say.text == "a b cd World Wide Web"

    def test_the_language_attribute_keeps_its_namespace(self) -> None:
        assert one('<Say><lang xml:lang="fr-FR">oui</lang></Say>') == Say(
            [Ssml("lang", [("xml:lang", "fr-FR")], "oui")]
        )

    @pytest.mark.parametrize(
        ("inside", "content"),
        [
            ("a <b>bold <s>x</s></b> c", ("a bold ", Ssml("s", (), ("x",)), " c")),
            ("<p>a<p>b</p></p>", (Ssml("p", (), ("ab",)),)),
            ('<break time="soon"/>', (Ssml("break"),)),
            ('<break tim="1s"/>', (Ssml("break"),)),
        ],
    )
    def test_what_is_not_speech_markup_loses_its_tag_and_keeps_its_text(
        self, inside: str, content: tuple[str | Ssml, ...]
    ) -> None:
        document = read(f"<Say>{inside}</Say>")
        assert document.verbs[0] == Say(content)
        assert 12200 in [problem.code for problem in document.problems]

    def test_speech_nested_too_deep_is_flattened_not_followed(self) -> None:
        deep = "<emphasis>" * 200 + "x" + "</emphasis>" * 200
        document = read(f"<Say>{deep}</Say>")
        assert document.verbs[0].text == "x"  # type: ignore[union-attr]
        part, depth = document.verbs[0].content[0], 0  # type: ignore[union-attr]
        while isinstance(part, Ssml):
            part, depth = part.content[0], depth + 1
        assert depth == MAX_SSML_DEPTH


class TestRefused:
    @pytest.mark.parametrize(
        ("source", "code"),
        [
            (b"", 12100),
            (b"hello", 12100),
            (b"<Response>", 12100),
            (b"<Response><Say></Response>", 12100),
            (b' <?xml version="1.0"?><Response/>', 12100),
            (b"<Response>&nbsp;</Response>", 12100),
            (b"<Response>\xff</Response>", 12100),
            (b'<?xml version="1.0" encoding="klingon"?><Response/>', 12100),
            (b"<!DOCTYPE Response><Response/>", 12100),
            (b'<?xml version="1.1"?><Response/>', 12101),
            (b'<?xml version="2.0"?><Response/>', 12101),
            (b"<response/>", 12102),
            (b"<html><body/></html>", 12102),
            (b'<Response xmlns="urn:x"/>', 12102),
            (b"<Response>" + b" " * 65_516 + b"</Response>", 11750),
            ("<Response>\ud800</Response>", 12100),
        ],
    )
    def test_with_the_dialects_code(self, source: bytes | str, code: int) -> None:
        with pytest.raises(MarkupError) as caught:
            parse(source)
        assert caught.value.code == code
        assert caught.value.message

    def test_a_syntax_error_says_where(self) -> None:
        with pytest.raises(MarkupError) as caught:
            parse("<Response>\n  <Say>x</Sey>\n</Response>")
        assert (caught.value.line, caught.value.column) == (2, 15)

    def test_sixty_four_kilobytes_are_read_and_one_more_is_not(self) -> None:
        body = b"<Response>" + b" " * (65_536 - 21) + b"</Response>"
        assert len(body) == 65_536
        assert parse(body) == Document(())
        with pytest.raises(MarkupError):
            parse(body + b" ")

    def test_an_external_entity_is_not_fetched(self, tmp_path: object) -> None:
        secret = tmp_path / "secret"  # type: ignore[operator]
        secret.write_text("hunter2")
        source = (
            f'<!DOCTYPE Response [<!ENTITY x SYSTEM "{secret.as_uri()}">]><Response><Say>&x;</Say></Response>'
        )
        with pytest.raises(MarkupError) as caught:
            parse(source)
        assert caught.value.code == 12100
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("place", ["<Say>&a9;</Say>", '<Say voice="&a9;">x</Say>'])
    def test_an_entity_bomb_goes_off_nowhere(self, place: str) -> None:
        steps = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
        source = f'<!DOCTYPE Response [<!ENTITY a0 "{"b" * 30}">{steps}]><Response>{place}</Response>'
        began = time.process_time()
        with pytest.raises(MarkupError) as caught:
            parse(source)
        assert caught.value.code == 12100
        assert time.process_time() - began < 1

    def test_elements_nested_by_the_thousand(self) -> None:
        with pytest.raises(MarkupError) as caught:
            parse(b"<Response>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</Response>")
        assert caught.value.code == 12100


class TestHostile:
    @pytest.mark.parametrize(
        "piece", ["<Gathre/>", "<Gather numDigit='x'/>", "<Say><sayas/></Say>", "<Gather timeout='x'/>"]
    )
    def test_a_document_full_of_mistakes_is_cheap_and_says_how_many_it_left_out(self, piece: str) -> None:
        count = 65_000 // len(piece)
        began = time.process_time()
        problems = read(piece * count).problems
        assert time.process_time() - began < 2
        assert len(problems) == MAX_PROBLEMS + 1
        assert "more problems are not listed" in problems[-1].message

    def test_a_long_name_or_value_does_not_fill_the_log(self) -> None:
        name = "x" * 20_000
        problems = read(f'<{name}/><Gather {name}="1" method="{name}"/>').problems
        assert len(problems) == 3
        assert all(len(problem.message) < 300 for problem in problems)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200) | st.text(max_size=100))
    def test_arbitrary_input_raises_nothing_but_markup_error(self, source: bytes | str) -> None:
        assert outcome(source) in (12100, 12101, 12102) or "Response" in str(source)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_a_mangled_document_raises_nothing_but_markup_error(self, data: st.DataObject) -> None:
        body = bytearray(f"<Response>{''.join(xml for xml, _ in READS)}</Response>".encode())
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at : at + data.draw(st.integers(0, 8))] = data.draw(
                st.sampled_from(
                    [b"<", b">", b'"', b"&", b"=", b"/", b"\x00", b"9" * 30, b"Say", b"\xc3", b"&#0;"]
                )
            )
        result = outcome(bytes(body))
        if isinstance(result, Document):
            assert all(problem.line >= 1 for problem in result.problems)
        else:
            assert result in (12100, 12102)

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from(["Gather", "Dial", "Record", "Say", "Conference"]),
        st.sampled_from(
            ["timeout", "input", "method", "loop", "finishOnKey", "callerId", "statusCallbackEvent"]
        ),
        st.text(
            st.characters(
                codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="<&\"'\ufffe\uffff"
            )
        ),
    )
    def test_any_attribute_text_is_read_or_warned_about(self, tag: str, name: str, raw: str) -> None:
        document = read(f'<{tag} {name}="{raw}"/>')
        assert len(document.verbs) == (0 if tag == "Conference" else 1)


def test_bytes_follow_the_declared_encoding_and_a_string_ignores_it() -> None:
    xml = '<?xml version="1.0" encoding="ISO-8859-1"?><Response><Say>é</Say></Response>'
    for source in (xml, xml.encode("latin-1")):
        (say,) = parse(source).verbs
        assert isinstance(say, Say)
        assert say.text == "é"
