//! Servers that kubeconfig files name: webhooks for tokens and for permissions.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_machinery::{
    decode::decode_yaml,
    outcall::{Credentials, Place, Target},
};
use serde_json::Value;

/// The server that the current context of a file names, and as whom it is called.
///
/// # Errors
/// The file cannot be read, or asks for what is not known here; in one line.
pub fn target(path: &Path) -> Result<Target, String> {
    let text = fs::read(path).map_err(|why| format!("{}: {why}", path.display()))?;
    let read = || -> Result<Target, String> {
        let file = decode_yaml(&text).map_err(|why| why.to_string().replace('\n', " "))?.value;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let name = file["current-context"].as_str().unwrap_or_default();
        let context = named(&file, "contexts", name, "context")?;
        let part = |kind: &str| context[kind].as_str().unwrap_or_default();
        let cluster = named(&file, "clusters", part("cluster"), "cluster")?;
        let none = Value::Null;
        let user = match part("user") {
            "" => &none,
            user => named(&file, "users", user, "user")?,
        };
        of(cluster, user, dir)
    };
    read().map_err(|why| format!("{}: {why}", path.display()))
}

fn named<'a>(file: &'a Value, list: &str, name: &str, field: &str) -> Result<&'a Value, String> {
    let found = file[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name);
    found.map(|entry| &entry[field]).ok_or_else(|| format!("{list} has no {name:?}"))
}

fn of(cluster: &Value, user: &Value, dir: &Path) -> Result<Target, String> {
    let text = |owner: &Value, field: &str| owner[field].as_str().unwrap_or_default().to_owned();
    if !text(cluster, "proxy-url").is_empty() {
        return Err("proxy-url is not supported".to_owned());
    }
    if let Some(field) = ["exec", "auth-provider"].iter().find(|field| !user[**field].is_null()) {
        return Err(format!("{field} is not supported"));
    }
    let server = text(cluster, "server");
    if !server.starts_with("https://") {
        return Err(format!("server: {server:?} is no URL of scheme https"));
    }
    let certificate = content(user, "client-certificate", dir)?;
    let certificate = match (certificate, content(user, "client-key", dir)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("client-certificate and client-key belong together".to_owned()),
    };
    let token = match text(user, "tokenFile").as_str() {
        "" => text(user, "token"),
        file => String::from_utf8_lossy(&read(&dir.join(file))?).trim().to_owned(),
    };
    let (name, password) = (text(user, "username"), text(user, "password"));
    let authorization = match (token.as_str(), name.as_str()) {
        ("", "") => String::new(),
        ("", name) => format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))),
        (token, _) => format!("Bearer {token}"),
    };
    Ok(Target {
        place: Place::Url(server),
        ca_bundle: content(cluster, "certificate-authority", dir)?.unwrap_or_default(),
        credentials: Credentials {
            certificate,
            authorization,
            server_name: text(cluster, "tls-server-name"),
            insecure: cluster["insecure-skip-tls-verify"] == true,
        },
    })
}

/// What stands in `field-data`, or in the file that `field` names.
fn content(owner: &Value, field: &str, dir: &Path) -> Result<Option<Vec<u8>>, String> {
    let inline = format!("{field}-data");
    if let Some(data) = owner[inline.as_str()].as_str().filter(|data| !data.is_empty()) {
        return STANDARD.decode(data).map(Some).map_err(|why| format!("{inline}: {why}"));
    }
    let file = owner[field].as_str().filter(|file| !file.is_empty());
    file.map(|file| read(&dir.join(file))).transpose()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|why| format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_a_server_and_who_calls_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kubeconfig");
        fs::write(dir.path().join("ca.pem"), "PEM").expect("written");
        let contexts = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n";
        for (cluster, user, expect) in [
            ("server: 'https://h/x', certificate-authority: ca.pem", "token: t", "https://h/x PEM Bearer t"),
            (
                "server: 'https://h', certificate-authority-data: UEVN",
                "username: a, password: b",
                "https://h PEM Basic YTpi",
            ),
            ("server: 'http://h'", "", "server: \"http://h\" is no URL of scheme https"),
            ("server: 'https://h', proxy-url: x", "", "proxy-url is not supported"),
            ("server: 'https://h'", "exec: {}", "exec is not supported"),
            ("server: 'https://h'", "client-key-data: UEVN", "belong together"),
            ("server: 'https://h', certificate-authority: gone.pem", "", "No such file"),
            ("server: 'https://h', certificate-authority-data: '!'", "", "certificate-authority-data: "),
        ] {
            let lists =
                format!("clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n");
            fs::write(&file, format!("{contexts}{lists}")).expect("written");
            let found = target(&file).map_or_else(
                |why| why,
                |target| {
                    let ca = String::from_utf8_lossy(&target.ca_bundle).into_owned();
                    format!("{} {ca} {}", target.url(), target.credentials.authorization)
                },
            );
            assert!(found.contains(expect), "{cluster}; {user}: {found}");
        }
        fs::write(&file, "current-context: b\n").expect("written");
        assert!(target(&file).is_err_and(|why| why.contains("contexts has no \"b\"")));
    }
}
