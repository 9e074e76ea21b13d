/*
 * Groups: their metadata and participants, and what the account does with them. Participants are addressed by lid.
 */
"use strict";

__d("WAWebParticipantModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class ParticipantModel extends Model {
    static defaults = { id: undefined, isAdmin: false, isSuperAdmin: false };

    get contact() {
      return require("WAWebContactCollection").ContactCollection.get(this.id);
    }
  }
  ParticipantModel.prototype.proxyName = "participant";
  exports.default = ParticipantModel;
});

__d("WAWebParticipantCollection", (require, exports) => {
  const Collection = require("WAWebCollection").default;
  const { isMeAccount } = require("WAWebUserPrefsMeUser");

  class ParticipantCollection extends Collection {
    static model = require("WAWebParticipantModel").default;

    me() {
      return this.findFirst((one) => isMeAccount(one.id));
    }

    iAmMember() {
      return Boolean(this.me());
    }

    iAmAdmin() {
      return Boolean(this.me()?.isAdmin);
    }

    iAmSuperAdmin() {
      return Boolean(this.me()?.isSuperAdmin);
    }

    iAmRestrictedMember() {
      return this.iAmMember() && !this.iAmAdmin() && Boolean(this.group?.restrict);
    }

    getAdmins() {
      return this.filter((one) => one.isAdmin);
    }

    canAdd() {
      return this.iAmAdmin();
    }

    canRemove(participant) {
      return this.iAmAdmin() && !participant.isSuperAdmin && this.includes(participant);
    }

    canPromote(participant) {
      return this.canRemove(participant) && !participant.isAdmin;
    }

    canDemote(participant) {
      return this.canRemove(participant) && participant.isAdmin;
    }
  }
  exports.default = ParticipantCollection;
});

__d("WAWebGroupMetadataModel", (require, exports) => {
  const Model = require("WAWebBaseModel").default;

  class GroupMetadataModel extends Model {
    static defaults = {
      id: undefined,
      subject: undefined,
      owner: undefined,
      creation: undefined,
      desc: undefined,
      descId: undefined,
      announce: false,
      restrict: false,
      ephemeralDuration: undefined,
      size: 0,
      isLidAddressingMode: true,
      memberAddMode: "admin_add",
      groupType: "DEFAULT",
      inviteCode: undefined,
      stale: true,
    };

    initialize() {
      const ParticipantCollection = require("WAWebParticipantCollection").default;
      this.participants = new ParticipantCollection();
      this.participants.group = this;
      this.pastParticipants = new ParticipantCollection();
    }

    get groupInviteLink() {
      return this.inviteCode ? `https://chat.whatsapp.com/${this.inviteCode}` : undefined;
    }

    _mayChange() {
      return this.participants.iAmMember() && (!this.restrict || this.participants.iAmAdmin());
    }

    canSetSubject() {
      return this._mayChange();
    }

    canSetDescription() {
      return this._mayChange();
    }

    canSetGroupProperty() {
      return this.participants.iAmAdmin();
    }

    canSetEphemeralSetting() {
      return this.participants.iAmAdmin();
    }
  }
  GroupMetadataModel.prototype.proxyName = "group-metadata";
  exports.default = GroupMetadataModel;
});

__d("WAWebGroupMetadataCollection", (require, exports) => {
  const { BaseCollection } = require("WAWebBaseCollection");

  class GroupMetadataCollection extends BaseCollection {
    static model = require("WAWebGroupMetadataModel").default;

    async findQuery(id) {
      const view = await require("SandboxComms").request("group", { group: String(id) });
      await require("SandboxDatabase").commit([require("SandboxGroups").put(view)]);
      return this.get(id);
    }

    _handleParentGroupChange() {
      // Communities are beyond this stand-in; the page API knows the collection by this method.
    }
  }
  exports.default = new GroupMetadataCollection();
});

__d("SandboxGroups", (require, exports) => {
  const { createWid } = require("WAWebWidFactory");
  const people = require("SandboxPeople");

  /** Take over a group as the server describes it; returns what has to be stored. */
  exports.put = (view) => {
    const collection = require("WAWebGroupMetadataCollection").default;
    const id = createWid(view.id);
    const group = collection.gadd(id);
    for (const { number, lid } of view.participants) {
      people.learn(number, lid);
    }
    const wanted = new Set(view.participants.map(({ lid }) => `${lid}@lid`));
    const gone = group.participants.filter((one) => !wanted.has(String(one.id)));
    group.participants.remove(gone);
    group.pastParticipants.add(gone.map((one) => ({ id: one.id })));
    for (const { lid, role } of view.participants) {
      const roles = { isAdmin: role !== "member", isSuperAdmin: role === "superadmin" };
      group.participants.add({ id: people.lidWid(lid), ...roles }, { merge: true });
    }
    group.set({
      subject: view.subject,
      owner: people.phoneWid(view.owner),
      creation: view.created,
      desc: view.description,
      descId: view.description_id,
      announce: view.announce,
      restrict: view.restrict,
      ephemeralDuration: view.ephemeral || undefined,
      size: view.participants.length,
      stale: false,
    });
    const chat = require("WAWebChatCollection").ChatCollection.get(id);
    if (chat) {
      require("SandboxChats").entitle(chat);
      chat.isReadOnly = !group.participants.iAmMember() || (view.announce && !group.participants.iAmAdmin());
    }
    require("WAWebProfilePicThumbCollection").ProfilePicThumbCollection.imageChanged(id, view.picture);
    return ["group-metadata", { id: view.id, view }];
  };

  const store = (view) => require("SandboxDatabase").commit([exports.put(view)]);

  exports.change = async (groupId, action, users) => {
    const args = { group: String(groupId), action, users: users.map(people.serverId) };
    const { group, results } = await require("SandboxComms").request("group_change", args);
    await store(group);
    return results.map(({ number, code }) => ({
      userWid: people.phoneWid(number),
      code: String(code),
      invite_code: null,
      invite_code_exp: null,
    }));
  };

  exports.set = async (groupId, fields) =>
    store(await require("SandboxComms").request("group_set", { group: String(groupId), fields }));
});

__d("WAWebGroupCreateJob", (require, exports) => {
  exports.sendCreateGroup = async (subject, wids) => {
    const people = require("SandboxPeople");
    const args = { subject, users: wids.map(people.serverId) };
    const { group, results } = await require("SandboxComms").request("group_create", args);
    const gid = require("WAWebWidFactory").createWid(group.id);
    const chat = require("SandboxChats").ensure(gid);
    const write = require("SandboxGroups").put(group);
    chat.t = group.created;
    await require("SandboxDatabase").commit([write, require("SandboxChats").write(chat)]);
    const participants = results.map(({ number, code }) => ({
      userWid: people.phoneWid(number),
      code: String(code),
      invite_code: null,
      invite_code_exp: null,
    }));
    return { gid, participants, status: 200 };
  };
});

__d("WAWebModifyParticipantsGroupAction", (require, exports) => {
  const change = (action) => async (chat, participants) => {
    await require("SandboxGroups").change(
      chat.id,
      action,
      participants.map((one) => one.id),
    );
  };
  exports.addParticipants = change("add");
  exports.removeParticipants = change("remove");
  exports.promoteParticipants = change("promote");
  exports.demoteParticipants = change("demote");
  exports.promoteCommunityParticipants = change("promote");
  exports.demoteCommunityParticipants = change("demote");
});

__d("WAWebGroupModifyParticipantsJob", (require, exports) => {
  const change = (action) => async (groupId, members) => {
    const users = members.map((one) => one.phoneNumber ?? one);
    return { status: 207, participants: await require("SandboxGroups").change(groupId, action, users) };
  };
  exports.addGroupParticipants = change("add");
  exports.removeGroupParticipants = change("remove");
  exports.promoteGroupParticipants = change("promote");
  exports.demoteGroupParticipants = change("demote");
});

__d("WAWebGroupModifyInfoJob", (require, exports) => {
  const groups = require("SandboxGroups");
  exports.setGroupSubject = (id, subject) => groups.set(id, { subject });
  exports.setGroupDescription = (id, description, newId) => groups.set(id, { description, description_id: newId });
  const FIELDS = { announcement: "announce", restrict: "restrict", ephemeral: "ephemeral" };
  exports.setGroupProperty = (id, property, value) =>
    groups.set(id, { [FIELDS[property]]: property === "ephemeral" ? value : Boolean(value) });
});

__d("WAWebGroupInviteJob", (require, exports) => {
  const ask = (group, renew) => require("SandboxComms").request("group_invite", { group: String(group), renew });
  exports.sendQueryGroupInviteCode = (id) => ask(id, false);
  exports.sendRevokeGroupInviteCode = (id) => ask(id, true);
  exports.sendQueryGroupInvite = async (invite) => {
    const people = require("SandboxPeople");
    const view = await require("SandboxComms").request("group_by_invite", { invite });
    const participants = view.participants.map(({ number, role }) => ({
      id: people.phoneWid(number),
      isAdmin: role !== "member",
      isSuperAdmin: role === "superadmin",
    }));
    const { subject, created: creation, description: desc, announce, restrict } = view;
    const id = require("WAWebWidFactory").createWid(view.id);
    const owner = people.phoneWid(view.owner);
    const size = participants.length;
    return { groupInfo: { id, subject, creation, desc, owner, participants, announce, restrict, size, status: 200 } };
  };
  exports.sendJoinGroupViaInvite = async (invite) => {
    const group = await require("SandboxComms").request("group_join", { invite });
    return { gid: require("WAWebWidFactory").createWid(group), membershipApprovalMode: false };
  };
});

__d("WAWebExitGroupAction", (require, exports) => {
  exports.sendExitGroup = async (chat) => {
    await require("SandboxComms").request("group_leave", { group: String(chat.id) });
    const { participants } = chat.groupMetadata;
    participants.remove(participants.me());
    chat.isReadOnly = true;
    return { status: 200 };
  };
});

__d("WAWebGroupQueryJob", (require, exports) => {
  exports.queryAllGroups = async () => {
    const views = await require("SandboxComms").request("groups");
    await require("SandboxDatabase").commit(views.map((view) => require("SandboxGroups").put(view)));
    return views.map((view) => ({
      id: require("SandboxChats").ensure(require("WAWebWidFactory").createWid(view.id)).id,
    }));
  };
});

__d("WAWebDBGroupsGroupMetadata", (require, exports) => {
  /** A group has changed: `action.actionType` says how. The page API listens here for participants. */
  exports.updateDBForGroupAction = async (_meta, action) => {
    await require("SandboxDatabase").commit([require("SandboxGroups").put(action.view)]);
  };
});
