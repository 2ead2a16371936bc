//! Who a process runs as, looked up in the container's own `/etc/passwd` and `/etc/group`.
//!
//! The rules and the words of the errors are Docker's (`moby/sys/user`): a name must be found, a number need
//! not be; without `:GROUP` the user's groups are those that list it as a member.

use hyper_protocol::agent::FailureKind;

use crate::failure::Failed;
use crate::spec;

/// Longest passwd or group file that is read, in bytes; the largest real ones (thousands of members in a group)
/// are far below.
pub(crate) const MAX_FILE: u64 = 4 << 20;

/// Greatest user or group number that Docker takes.
const MAX_ID: i64 = i32::MAX as i64;

/// Numbers of a process's user, and where it is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Additional groups.
    pub(crate) groups: Vec<u32>,
    /// Home directory, `/` for users without an entry.
    pub(crate) home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: i64,
    members: &'a str,
}

/// Numbers that are none count as 0, as in Docker: some images have such lines.
fn number(text: &str) -> i64 {
    text.trim().parse().unwrap_or(0)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).map(|line| {
        let mut fields = line.split(':');
        let mut next = || fields.next().unwrap_or("");
        let (name, _, uid, gid, _, home) = (next(), next(), next(), next(), next(), next());
        Account { name, uid: number(uid), gid: number(gid), home }
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    lines(group).map(|line| {
        let mut fields = line.split(':');
        let mut next = || fields.next().unwrap_or("");
        let (name, _, gid, members) = (next(), next(), next(), next());
        Group { name, gid: number(gid), members }
    })
}

fn checked(id: i64) -> Result<u32, Failed> {
    if (0..=MAX_ID).contains(&id) {
        Ok(id as u32)
    } else {
        Err(Failed::invalid(format!("uids and gids must be in range 0-{MAX_ID}")))
    }
}

/// Finds who a process runs as: `user` (`USER[:GROUP]`) if given, else the numbers of the specification, and
/// in the additional groups `more` besides.
pub(crate) fn resolve(
    user: Option<&str>,
    more: &[String],
    specified: &spec::User,
    passwd: &str,
    group: &str,
) -> Result<Identity, Failed> {
    let mut identity = match user {
        None => Identity {
            uid: specified.uid,
            gid: specified.gid,
            groups: Vec::new(),
            home: accounts(passwd)
                .find(|a| a.uid == i64::from(specified.uid))
                .map_or("/", |a| a.home)
                .to_owned(),
        },
        Some(user) => by_words(user, passwd, group)?,
    };
    identity.groups.extend(&specified.additional_gids);
    for name in more {
        identity.groups.push(find_group(name, group)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    identity.groups.retain(|&gid| seen.insert(gid));
    if identity.home.is_empty() {
        identity.home = "/".to_owned();
    }
    Ok(identity)
}

fn by_words(words: &str, passwd: &str, group: &str) -> Result<Identity, Failed> {
    let (user, group_word) = words.split_once(':').unwrap_or((words, ""));
    let as_number: Option<i64> = user.parse().ok();
    let account = accounts(passwd).find(|account| match (user, as_number) {
        ("", _) => account.uid == 0,
        (_, Some(uid)) => account.uid == uid,
        (name, None) => account.name == name,
    });
    let (uid, gid, home) = match (&account, as_number) {
        (Some(account), _) => (account.uid, account.gid, account.home),
        (None, Some(uid)) => (uid, 0, "/"),
        (None, None) if user.is_empty() => (0, 0, "/"),
        (None, None) => {
            return Err(Failed::new(
                FailureKind::NoSuchUser,
                format!("unable to find user {user}: no matching entries in passwd file"),
            ));
        }
    };
    let (gid, groups) = if group_word.is_empty() {
        let member_of = match &account {
            None => Vec::new(),
            Some(account) => groups(group)
                .filter(|g| !account.name.is_empty() && g.members.split(',').any(|m| m == account.name))
                .map(|g| checked(g.gid))
                .collect::<Result<_, _>>()?,
        };
        (checked(gid)?, member_of)
    } else {
        (find_group(group_word, group)?, Vec::new())
    };
    // As docker: without the primary group among the others, a program that changes its group loses what
    // that group may not do (CVE-2022-36109).
    let groups = std::iter::once(gid).chain(groups).collect();
    Ok(Identity { uid: checked(uid)?, gid, groups, home: home.to_owned() })
}

fn find_group(word: &str, group: &str) -> Result<u32, Failed> {
    let as_number: Option<i64> = word.parse().ok();
    let found = groups(group).find(|g| as_number.map_or(g.name == word, |gid| g.gid == gid));
    match (found, as_number) {
        (Some(group), _) => checked(group.gid),
        (None, Some(gid)) => checked(gid),
        (None, None) => Err(Failed::new(
            FailureKind::NoSuchUser,
            format!("unable to find group {word}: no matching entries in group file"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/false\n\
                          odd\n\napp:x:1000:1000::/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\naudio:x:29:app,www-data\nstaff:x:50:app\n";

    fn find(user: &str) -> Result<Identity, String> {
        resolve(Some(user), &[], &spec::User::default(), PASSWD, GROUP).map_err(|e| e.to_failure().message)
    }

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, String> {
        Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let cases = [
            ("root", identity(0, 0, &[0], "/root")),
            ("", identity(0, 0, &[0], "/root")),
            ("www-data", identity(33, 33, &[33, 29], "/var/www")),
            ("33", identity(33, 33, &[33, 29], "/var/www")),
            ("app", identity(1000, 1000, &[1000, 29, 50], "/home/app")),
            ("app:audio", identity(1000, 29, &[29], "/home/app")),
            ("app:7", identity(1000, 7, &[7], "/home/app")),
            ("4242", identity(4242, 0, &[0], "/")),
            ("4242:staff", identity(4242, 50, &[50], "/")),
            (":staff", identity(0, 50, &[50], "/root")),
        ];
        for (user, expected) in cases {
            assert_eq!(find(user), expected, "{user}");
        }
    }

    #[test]
    fn unknown_names_fail_in_dockers_words() {
        assert_eq!(
            find("nosuch").unwrap_err(),
            "unable to find user nosuch: no matching entries in passwd file"
        );
        assert_eq!(
            find("root:nosuch").unwrap_err(),
            "unable to find group nosuch: no matching entries in group file"
        );
        assert_eq!(find("-5").unwrap_err(), "uids and gids must be in range 0-2147483647");
        assert_eq!(find("4294967296").unwrap_err(), "uids and gids must be in range 0-2147483647");
    }

    #[test]
    fn additional_groups_come_by_name_and_number_without_repetition() {
        let more = ["staff".to_owned(), "50".to_owned(), "99".to_owned()];
        let specified = spec::User { uid: 1000, gid: 1, additional_gids: vec![50], ..Default::default() };
        let found = resolve(None, &more, &specified, PASSWD, GROUP).unwrap();
        assert_eq!(Ok(found), identity(1000, 1, &[50, 99], "/home/app"));
    }

    proptest! {
        #[test]
        fn any_files_and_words_give_an_identity_or_an_error(
            user in "[a-z0-9:-]{0,12}", passwd in "([a-z0-9:\\-\n]{0,80}|\\PC{0,40})", group in "[a-z0-9:,\n]{0,80}"
        ) {
            if let Ok(found) = resolve(Some(&user), &[], &spec::User::default(), &passwd, &group) {
                prop_assert!(i64::from(found.uid) <= MAX_ID && i64::from(found.gid) <= MAX_ID);
                prop_assert!(!found.home.is_empty());
            }
        }

        #[test]
        fn a_name_in_the_file_is_found(name in "[a-z][a-z0-9]{0,8}", uid in 0_u32..i32::MAX as u32, gid in 0_u32..i32::MAX as u32) {
            let passwd = format!("a:x:1:1\n{name}:x:{uid}:{gid}::/h:/s\n");
            prop_assume!(name != "a");
            let found = resolve(Some(&name), &[], &spec::User::default(), &passwd, "").unwrap();
            prop_assert_eq!((found.uid, found.gid), (uid, gid));
        }
    }
}
