"""Contacts, and which lid is whose number."""

from __future__ import annotations

from gateway.models import (
    CheckExistsQuery,
    ContactAbout,
    ContactChatPath,
    ContactInfo,
    ContactPath,
    ContactPicture,
    ContactPictureQuery,
    ContactQuery,
    ContactRequest,
    ContactsQuery,
    ContactUpdateBody,
    CountResponse,
    LidPath,
    LidToPhoneNumber,
    PageQuery,
    PhonePath,
    Result,
    WANumberExistResult,
)
from gateway.operations import Operations
from session_worker.contract import Method

OPERATIONS = Operations("👤 Contacts")

_page = OPERATIONS.page
_page("GET", "/api/contacts/all", "ContactsController_getAll", "Get all contacts", Method.GET_CONTACTS,
      query=ContactsQuery, result=list[ContactInfo])  # fmt: skip
_page("GET", "/api/contacts", "ContactsController_get", "Get contact basic info", Method.GET_CONTACT,
      query=ContactQuery, result=ContactInfo)  # fmt: skip
_page("GET", "/api/contacts/check-exists", "ContactsController_checkExists",
      "Check phone number is registered in WhatsApp", Method.CHECK_EXISTS,
      query=CheckExistsQuery, result=WANumberExistResult)  # fmt: skip
_page("GET", "/api/contacts/about", "ContactsController_getAbout", "Get the contact's about text", Method.GET_ABOUT,
      query=ContactQuery, result=ContactAbout)  # fmt: skip
_page("GET", "/api/contacts/profile-picture", "ContactsController_getProfilePicture",
      "Get the contact's profile picture", Method.GET_PICTURE, query=ContactPictureQuery, result=ContactPicture,
      answer=lambda found: {"profilePictureURL": found["url"]})  # fmt: skip
_page("POST", "/api/contacts/block", "ContactsController_block", "Block contact", Method.SET_BLOCKED,
      body=ContactRequest, result=Result, fixed={"blocked": True})  # fmt: skip
_page("POST", "/api/contacts/unblock", "ContactsController_unblock", "Unblock contact", Method.SET_BLOCKED,
      body=ContactRequest, result=Result, fixed={"blocked": False})  # fmt: skip
_page("GET", "/api/{session}/contacts/{id}", "ContactsSessionController_get", "Get contact basic info",
      Method.GET_CONTACT, where=ContactPath, result=ContactInfo)  # fmt: skip
_page("PUT", "/api/{session}/contacts/{chatId}", "ContactsSessionController_put", "Create or update contact",
      Method.SAVE_CONTACT, where=ContactChatPath, body=ContactUpdateBody, result=Result)  # fmt: skip
_page("GET", "/api/{session}/lids", "LidsController_getAll", "Get all known lids to phone number mapping",
      Method.GET_LIDS, query=PageQuery, result=list[LidToPhoneNumber])  # fmt: skip
_page("GET", "/api/{session}/lids/count", "LidsController_getLidsCount", "Get the number of known lids",
      Method.GET_LIDS, result=CountResponse, fixed={"count": True})  # fmt: skip
_page("GET", "/api/{session}/lids/{lid}", "LidsController_findPNByLid", "Get phone number by lid", Method.GET_LID,
      where=LidPath, result=LidToPhoneNumber)  # fmt: skip
_page("GET", "/api/{session}/lids/pn/{phoneNumber}", "LidsController_findLIDByPhoneNumber", "Get lid by phone number",
      Method.GET_LID, where=PhonePath, result=LidToPhoneNumber)  # fmt: skip
