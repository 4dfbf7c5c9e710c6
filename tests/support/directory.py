"""Changes the directory of the domain controller on this machine.

    python directory.py set ACCOUNT ATTRIBUTE VALUE    an empty VALUE clears it
    python directory.py groups ACCOUNT COUNT           puts the account into new groups
"""

import sys

import ldb
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB

# groupType: a security group, global.
GLOBAL_GROUP = "-2147483646"


def main():
    command, account, *rest = sys.argv[1:]
    settings = LoadParm()
    settings.load_default()
    directory = SamDB(session_info=system_session(), lp=settings)
    users = f"CN=Users,{directory.domain_dn()}"
    user = f"CN={account},{users}"
    if command == "set":
        attribute, value = rest
        change = ldb.Message(ldb.Dn(directory, user))
        change[attribute] = ldb.MessageElement([value] if value else [], ldb.FLAG_MOD_REPLACE, attribute)
        directory.modify(change)
    else:
        # In one transaction this takes seconds, not minutes.
        directory.transaction_start()
        for number in range(int(rest[0])):
            name = f"group-{account}-{number}"
            group = {"dn": f"CN={name},{users}", "objectClass": "group", "sAMAccountName": name}
            directory.add(group | {"groupType": GLOBAL_GROUP, "member": user})
        directory.transaction_commit()


if __name__ == "__main__":
    main()
