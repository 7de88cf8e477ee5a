"""What the names of columns say in the data that people have: which column is the user, the item, the time, the type, or an id.

Names are compared in lower case and without anything but letters and digits, so `user_id`, `User ID`, `userId` and RecBole's
`user_id:token` are one name.
"""

import re
from collections.abc import Iterable


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Best guess first.
ROLES = {
    "user_id": _listed(
        """userid user uid customerid customer custid householdid householdkey household visitorid visitor userpseudoid memberid
        member clientid client accountid account reviewerid reviewer profileid playerid subscriberid buyerid shopperid personid
        person distinctid anonymousid domainuserid fullvisitorid deviceid cookieid msno userhash username sessionid session
        usersession"""
    ),
    "item_id": _listed(
        """itemid item productid product articleid article sku skuid
        parentasin asin movieid movie bookid book trackid track songid
        song videoid video newsid news artistid businessid recipeid contentid gameid game appid listingid hotelid offerid postid
        storyid venueid poiid gmapid courseid jobid adid variantid stockcode isbn ean gtin upc aid musicid podcastid episodeid
        showid"""
    ),
    "timestamp": _listed(
        """timestamp eventtimestamp eventtime time datetime timestampms timems ts tdat transactiontimestamp occurredat createdat
        collectortstamp derivedtstamp originaltimestamp servertime unixreviewtime unixtime reviewtime purchasetime purchasedat
        ordertime orderedat viewedat playedat listenedat watchedat ratedat date eventdate purchasedate orderdate invoicedate
        transactiondate transactiondt reviewdate day dt"""
    ),
    "event_type": _listed(
        """eventtype eventname event type action actiontype behavior behaviour behaviortype interactiontype interaction activity
        eventkind"""
    ),
}
QUERIES = _listed("query searchquery searchterm searchtext searchphrase searchstring searchkeyword searchkeywords keywords")
TITLES = _listed("title name itemname productname prodname producttitle movietitle itemtitle articletitle headline")
_RECBOLE = re.compile(r":(token|float)(_seq)?$")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ID_WORDS = frozenset(_listed("id ids uuid guid key sku ean upc gtin isbn asin code hash number no nr"))
# Events, and what groups them. A column that is called by one of the second line alone holds ids.
_EVENTS = _listed("event request row line message impression search query pageview hit batch trans txn")
_GROUPS = _listed("basket order session transaction invoice receipt ticket cart visit trip checkout")
_NOUNS = frozenset(
    (
        *_EVENTS,
        *_GROUPS,
        *_listed(
            """user customer visitor member item product article category subcategory department brand store shop seller vendor
        supplier parent movie video book genre artist album author country region city campaign coupon channel device page
            class group type
        section collection color colour size style variant model manufacturer franchise"""
        ),
    )
)


def plain_name(name: str) -> str:
    """The name without the type that RecBole appends: `user_id` of `user_id:token`."""
    return _RECBOLE.sub("", name).strip()


def normalised(name: str) -> str:
    """Lower-case letters and digits of a name."""
    return re.sub(r"[\W_]", "", plain_name(name).lower())


def find_role(role: str, names: Iterable[str]) -> str | None:
    """The column that the best guess for a role names; None when no column has such a name."""
    known = {normalised(name): name for name in reversed(list(names))}
    return next((known[guess] for guess in ROLES[role] if guess in known), None)


def words(name: str) -> list[str]:
    """The words of a name in lower case: `category`, `id` of `categoryId`, `CATEGORY_ID` and `categoryid`."""
    found = [word.lower() for word in _WORDS.findall(plain_name(name))]
    if found and found[-1].endswith("id") and found[-1][:-2] in _NOUNS:
        found[-1:] = [found[-1][:-2], "id"]
    return found


def is_id(name: str) -> bool:
    """Whether the name says that values are ids or codes, which are no quantities: `order_id`, `categoryId`, `ean`."""
    found = words(name)
    return bool(found) and found[-1] in _ID_WORDS


def is_group(name: str) -> bool:
    """Whether the name says that values are ids of events or of groups of them, such as baskets and sessions."""
    found = words(name)
    return bool(found) and (found[-1] in _GROUPS or (found[-1] in _ID_WORDS and any(w in found for w in (*_EVENTS, *_GROUPS))))
