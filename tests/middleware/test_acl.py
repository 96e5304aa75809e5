"""Access control lists: the file format, the three questions, patterns, and the whole beside a naive model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_codec.topics import covers, matches, overlaps
from acebroker_middleware.acl import AclAuthority, AclError, AclRules, DenyAll, OpenAuthority
from acebroker_middleware.state.ports import Authority, Decision

EXAMPLE = """\
# for everybody without a name
topic read news/#
topic deny news/secret

user alice
topic readwrite alice/#
topic deny alice/secret/+
topic write read me
topic status

  # another person
user Bob Builder
topic\treadwrite #
topic write   $SYS/broker/load

pattern write sensor/%u/%c/data
pattern read $SYS/broker/clients/%c
"""


def authority(text: str, username: str | None = "alice", client_identifier: str = "c1") -> AclAuthority:
    return AclAuthority(AclRules.parse(text, "acl"), username, client_identifier)


def answers(of: Authority, topic: str) -> str:
    """`p`, `s`, `r` for what is permitted on a topic: publish, subscribe, receive."""
    decisions = (("p", of.permits_publish(topic)), ("s", of.permits_subscribe(topic)), ("r", of.permits_receive(topic)))
    return "".join(letter for letter, decision in decisions if decision.allowed)


# --- the file ----------------------------------------------------------------------------------


def test_lines_before_the_first_user_are_for_clients_without_a_name() -> None:
    anonymous = authority(EXAMPLE, None)
    assert answers(anonymous, "news/today") == "sr"
    assert answers(anonymous, "alice/x") == ""
    assert answers(authority(EXAMPLE, "alice"), "news/today") == ""
    assert answers(authority(EXAMPLE, "nobody"), "news/today") == ""


def test_rights_of_a_user() -> None:
    alice = authority(EXAMPLE)
    assert answers(alice, "alice") == "psr"
    assert answers(alice, "alice/x/y") == "psr"
    assert answers(alice, "alice/secret/x") == ""
    assert answers(alice, "status") == "psr"
    assert answers(alice, "bob") == ""


def test_a_topic_may_hold_spaces_and_a_name_too() -> None:
    assert answers(authority("user alice\ntopic write read  me \t"), "read  me") == "p"
    assert answers(authority(EXAMPLE, "Bob Builder"), "a/b") == "psr"
    assert answers(authority(EXAMPLE, "Bob"), "a/b") == ""


def test_a_line_ends_at_a_newline_and_at_nothing_else() -> None:
    text = "user alice\r\ntopic read a\u2028b\r\ntopic read c\x0bd\n\n"
    assert answers(authority(text), "a\u2028b") == "sr"
    assert answers(authority(text), "c\x0bd") == "sr"
    assert answers(authority(text), "a") == ""


def test_a_user_may_come_twice() -> None:
    text = "user alice\ntopic read a\nuser bob\ntopic read b\nuser alice\ntopic write a\n"
    assert answers(authority(text), "a") == "psr"
    assert answers(authority(text), "b") == ""


def test_decisions_name_the_line() -> None:
    alice = authority(EXAMPLE)
    assert alice.permits_publish("alice/x") == Decision(True, "acl:6")
    assert alice.permits_publish("alice/secret/x") == Decision(False, "acl:7")
    assert alice.permits_subscribe("alice/+") == Decision(True, "acl:6")
    assert alice.permits_subscribe("alice/#") == Decision(False, "acl:7")
    assert alice.permits_receive("alice/secret/x") == Decision(False, "acl:7")
    assert alice.permits_publish("sensor/alice/c1/data") == Decision(True, "acl:16")
    assert alice.permits_publish("other") == Decision(False, "no rule")
    assert alice.authorized_until is None


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("topic", 1, "no Topic Filter"),
        ("# fine\n\ntopic   ", 3, "no Topic Filter"),
        ("topic read", 1, "no Topic Filter"),
        ("topic deny\t", 1, "no Topic Filter"),
        ("pattern write", 1, "no Topic Filter"),
        ("user", 1, "without a name"),
        ("user alice\nuser  ", 2, "without a name"),
        ("topic a b", 1, "'a' is none of"),
        ("topic Read a", 1, "'Read' is none of"),
        ("topic readonly a", 1, "'readonly' is none of"),
        ("users alice", 1, "'users' is none of"),
        ("topics read a", 1, "'topics' is none of"),
        ("\ufefftopic read a", 1, "is none of"),
        ("topic read a#", 1, "no Topic Filter"),
        ("topic read a/#/b", 1, "no Topic Filter"),
        ("pattern read +%u", 1, "no Topic Filter"),
        ("topic read a\0b", 1, "U+0000"),
        ("topic read $share/g/a", 1, "Shared Subscription"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, line: int, said: str) -> None:
    with pytest.raises(AclError) as caught:
        AclRules.parse(text, "/etc/acl.conf")
    assert str(caught.value).startswith(f"/etc/acl.conf:{line}: ")
    assert said in str(caught.value)


def test_an_empty_list_permits_nothing() -> None:
    for username in (None, "alice"):
        assert answers(authority("# nothing\n", username), "a") == ""


# --- the three questions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "expected"), [("read ", "sr"), ("write ", "p"), ("readwrite ", "psr"), ("", "psr"), ("deny ", "")]
)
def test_kinds_of_access(access: str, expected: str) -> None:
    for topic_filter in ("a/b", "a/+", "#"):
        assert answers(authority(f"user alice\ntopic {access}{topic_filter}"), "a/b") == expected


@pytest.mark.parametrize(
    "order", [("readwrite #", "deny a/b"), ("deny a/b", "readwrite #"), ("deny a/b", "readwrite a/b")]
)
def test_deny_wins_wherever_it_stands(order: tuple[str, str]) -> None:
    alice = authority("user alice\n" + "".join(f"topic {line}\n" for line in order))
    assert answers(alice, "a/b") == ""
    pattern = authority(f"user alice\ntopic {order[0]}\npattern {order[1]}\n")
    assert answers(pattern, "a/b") == ""


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("a/#", True),
        ("a", True),
        ("a/+/c", True),
        ("#", False),
        ("+", False),
        ("+/b", False),
        ("b/1", True),
        ("b/+", False),
        ("d/+/x", True),
        ("d/+/+", False),
        ("d/#", False),
        ("e/ok", True),
        ("e/+", False),
        ("e/#", False),
        ("w", False),
    ],
)
def test_a_subscription_must_be_covered_by_one_rule(requested: str, allowed: bool) -> None:
    """ACE-2.3-10 applied to lists, and no deny rule may lie inside what is asked for."""
    text = "user alice\ntopic read a/#\ntopic read b/1\ntopic read b/2\ntopic read d/+/x\n"
    text += "topic read e/#\ntopic deny e/secret\ntopic write w\n"
    assert authority(text).permits_subscribe(requested).allowed is allowed


def test_dollar_topics_need_a_rule_that_spells_the_dollar() -> None:
    """[MQTT-4.7.2-1] in rules: `#` and `+/...` grant nothing on `$SYS`."""
    text = "user alice\ntopic readwrite #\ntopic readwrite +/#\ntopic readwrite +/x\n"
    assert answers(authority(text), "$SYS/x") == ""
    assert not authority(text).permits_subscribe("$SYS/#").allowed
    assert authority(text).permits_subscribe("#").allowed
    assert answers(authority(text + "topic read $SYS/#"), "$SYS/x") == "sr"


# --- patterns ----------------------------------------------------------------------------------


def test_patterns_hold_for_every_client() -> None:
    text = "user alice\ntopic read a\npattern readwrite dev/%c/#\npattern read all\npattern write u/%u\n"
    assert answers(authority(text, "alice", "c1"), "dev/c1/x") == "psr"
    assert answers(authority(text, "alice", "c1"), "dev/c2/x") == ""
    assert answers(authority(text, "alice", "c1"), "u/alice") == "p"
    assert answers(authority(text, "bob", "c9"), "dev/c9/x") == "psr"
    assert answers(authority(text, None, "c9"), "dev/c9/x") == "psr"
    assert answers(authority(text, None, "c9"), "all") == "sr"
    assert answers(authority(text, None, "c9"), "u/None") == ""


def test_a_placeholder_is_replaced_wherever_it_stands() -> None:
    text = "pattern write x%u-%c/%c/%u%u/%%u/100%"
    assert answers(authority(text, "me", "it"), "xme-it/it/meme/%me/100%") == "p"


def test_what_a_name_spells_is_never_a_placeholder() -> None:
    text = "pattern write x/%u/%c"
    assert answers(authority(text, "%c", "%u"), "x/%c/%u") == "p"
    assert answers(authority(text, "%c", "victim"), "x/victim/victim") == ""


@pytest.mark.parametrize("name", ["+", "#", "a/b", "a+", "a#", "/", "a/#", "$SYS", "$SYS/broker", "$share"])
@pytest.mark.parametrize("placeholder", ["%u", "%c"])
def test_names_that_would_widen_a_pattern_never_expand(name: str, placeholder: str) -> None:
    """Such a pattern grants nothing and is counted; the other rules of the client stand."""
    rules = AclRules.parse(
        f"user {name}\ntopic read ok\nuser x\ntopic read ok\npattern readwrite {placeholder}/#\n", "acl"
    )
    of = AclAuthority(rules, name, "x") if placeholder == "%u" else AclAuthority(rules, "x", name)
    for topic in ("a", "a/b", "a/b/c", "$SYS/broker/x", "$SYS", "a/", "/"):
        assert answers(of, topic) == ""
    for requested in ("+", "#", f"{name}/#"):
        assert not of.permits_subscribe(requested).allowed
    assert answers(of, "ok") == "sr"
    assert rules.unexpandable == 1
    AclAuthority(rules, "fine", "fine")
    assert rules.unexpandable == 1


def test_a_dollar_inside_is_a_character() -> None:
    assert answers(authority("pattern read x/%u", "$SYS"), "x/$SYS") == "sr"
    assert answers(authority("pattern read $SYS/%c/#", "u", "$c"), "$SYS/$c/x") == "sr"


def test_a_deny_pattern_that_cannot_be_expanded_denies_everything() -> None:
    text = "user alice\ntopic readwrite #\npattern deny private/%c/#\n"
    assert answers(authority(text, "alice", "c1"), "private/c1/x") == ""
    assert answers(authority(text, "alice", "c1"), "other") == "psr"
    rules = AclRules.parse(text, "acl")
    odd = AclAuthority(rules, "alice", "c/1")
    assert answers(odd, "private/c/1/x") == ""
    assert odd.permits_publish("other") == Decision(False, "acl:3")
    assert odd.permits_subscribe("other") == Decision(False, "acl:3")
    assert odd.permits_receive("other") == Decision(False, "acl:3")
    assert rules.unexpandable == 1


def test_patterns_about_users_say_nothing_about_a_client_without_a_name() -> None:
    rules = AclRules.parse("topic read a\npattern deny %u/#\npattern read b/%u/%c\n", "acl")
    nameless = AclAuthority(rules, None, "c/1")
    assert answers(nameless, "a") == "sr"
    assert rules.unexpandable == 0


def test_a_pattern_that_becomes_no_filter_grants_nothing() -> None:
    rules = AclRules.parse("pattern read %u", "acl")
    assert answers(AclAuthority(rules, "", "c"), "a") == ""
    assert rules.unexpandable == 1
    assert answers(AclAuthority(rules, "n" * 70_000, "c"), "a") == ""


# --- without a list ----------------------------------------------------------------------------


def test_open_authority() -> None:
    anybody: Authority = OpenAuthority()
    assert answers(anybody, "a/b") == "psr"
    assert answers(anybody, "$SYS/x") == ""
    assert anybody.permits_subscribe("#") == Decision(True, "no access control list")
    assert not anybody.permits_subscribe("$SYS/#").allowed
    assert anybody.authorized_until is None


def test_deny_all() -> None:
    nobody: Authority = DenyAll()
    assert answers(nobody, "a/b") == answers(nobody, "$SYS/x") == ""
    assert nobody.permits_subscribe("#") == Decision(False, "no rule")
    assert nobody.authorized_until is None


# --- beside a model ----------------------------------------------------------------------------

LEVELS = st.sampled_from(["a", "b", "", "$s", "+"])
FILTERS = st.builds(
    lambda levels, ending: "/".join([*levels, *ending]) or "+",
    st.lists(LEVELS, max_size=3),
    st.sampled_from([[], [], ["#"]]),
)
TOPICS = st.lists(st.sampled_from(["a", "b", "", "$s", "x"]), min_size=1, max_size=4).map("/".join).filter(bool)
LINES = st.lists(st.tuples(st.sampled_from(["read", "write", "readwrite", "deny"]), FILTERS), max_size=25)


@settings(deadline=None, max_examples=300)
@given(LINES, LINES, st.lists(TOPICS, min_size=1, max_size=6), st.lists(FILTERS, min_size=1, max_size=6))
def test_all_three_questions_agree_with_a_scan_of_all_lines(
    topic_lines: list[tuple[str, str]],
    pattern_lines: list[tuple[str, str]],
    topics: list[str],
    requests: list[str],
) -> None:
    """Few rules and many (the two ways they are kept), own ones and patterns."""
    text = "user alice\n" + "".join(f"topic {access} {filter_}\n" for access, filter_ in topic_lines)
    text += "".join(f"pattern {access} {filter_}\n" for access, filter_ in pattern_lines)
    lines = topic_lines + pattern_lines
    denied = [filter_ for access, filter_ in lines if access == "deny"]
    readable = [filter_ for access, filter_ in lines if access.startswith("read")]
    writable = [filter_ for access, filter_ in lines if access.endswith("write")]
    alice = authority(text)

    def line_of(decision: Decision) -> str:
        return text.split("\n")[int(decision.rule.removeprefix("acl:")) - 1].split(" ", 2)[2]

    for topic in topics:
        deny = any(matches(filter_, topic) for filter_ in denied)
        for decision, granted in [
            (alice.permits_publish(topic), writable),
            (alice.permits_receive(topic), readable),
        ]:
            assert decision.allowed == (not deny and any(matches(filter_, topic) for filter_ in granted))
            assert decision.rule == "no rule" or matches(line_of(decision), topic)
    for requested in requests + topics:
        decision = alice.permits_subscribe(requested)
        deny = any(overlaps(filter_, requested) for filter_ in denied)
        assert decision.allowed == (not deny and any(covers(filter_, requested) for filter_ in readable))
        assert deny == (not decision.allowed and decision.rule != "no rule")


@settings(deadline=None, max_examples=300)
@given(LINES, st.lists(FILTERS, min_size=1, max_size=6), st.lists(TOPICS, min_size=1, max_size=12), st.booleans())
def test_whoever_may_subscribe_may_receive_all_that_is_selected(
    lines: list[tuple[str, str]], requests: list[str], topics: list[str], open_to_all: bool
) -> None:
    """What retained messages rely on: they are sent without a question about each topic of a granted filter."""
    text = "user alice\n" + "".join(f"topic {access} {filter_}\n" for access, filter_ in lines)
    rights: Authority = OpenAuthority() if open_to_all else authority(text)
    for requested in requests:
        if rights.permits_subscribe(requested).allowed:
            for topic in topics:
                assert not matches(requested, topic) or rights.permits_receive(topic).allowed
