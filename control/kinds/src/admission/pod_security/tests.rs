use serde_json::json;

use super::*;

fn of(level: Level, minor: Option<u32>, pod: &Value) -> String {
    policy::judge(LevelVersion { level, minor }, get(pod, "metadata"), get(pod, "spec")).unwrap_or_default()
}

fn with(container: Value, spec: Value) -> Value {
    let mut one = container;
    one["name"] = "a".into();
    let mut spec = spec;
    spec["containers"] = json!([one]);
    json!({ "spec": spec })
}

#[test]
fn baseline_refuses_the_known_ways_out() {
    let context = |context: Value| with(json!({ "securityContext": context }), json!({}));
    let own = |context: Value| with(json!({}), json!({ "securityContext": context }));
    for (pod, expect) in [
        (with(json!({}), json!({})), ""),
        (
            context(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            context(json!({"capabilities": {"add": ["CHOWN", "SYS_ADMIN", "NET_RAW"]}})),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            with(json!({}), json!({"hostNetwork": true, "hostIPC": true})),
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            with(json!({}), json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
            "hostPath volumes (volume \"v\")",
        ),
        (
            with(json!({"ports": [{"hostPort": 80}, {"hostPort": 8080}, {"containerPort": 1}]}), json!({})),
            "hostPorts (container \"a\" uses hostPorts 80, 8080)",
        ),
        (
            with(json!({"livenessProbe": {"httpGet": {"host": "h"}}}), json!({})),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
        (
            context(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            own(json!({"seLinuxOptions": {"type": "x", "user": "u"}})),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            own(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            own(json!({"sysctls": [{"name": "net.ipv4.tcp_wmem"}, {"name": "kernel.msgmax"}]})),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            own(json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}},
                "spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}),
            "forbidden AppArmor profiles (pod and annotation must not set AppArmor profile type to \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
        ),
    ] {
        assert_eq!(of(Level::Baseline, None, &pod), expect, "{pod}");
        assert_eq!(of(Level::Privileged, None, &pod), "", "{pod}");
    }
}

#[test]
fn restricted_wants_good_practice_said() {
    let good = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}});
    let but = |field: &str, value: Value| {
        let mut context = good.clone();
        context[field] = value;
        with(json!({ "securityContext": context }), json!({}))
    };
    for (pod, expect) in [
        (but("privileged", json!(false)), ""),
        (
            with(json!({}), json!({})),
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ),
        (but("runAsUser", json!(0)), "runAsUser=0 (container \"a\" must not set runAsUser=0)"),
        (
            but("runAsNonRoot", json!(false)),
            "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            but("capabilities", json!({"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]})),
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        (
            with(
                json!({"securityContext": good}),
                json!({"volumes": [{"name": "v", "nfs": {}}, {"name": "w", "secret": {}}]}),
            ),
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
        (with(json!({}), json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}})), ""),
    ] {
        assert_eq!(of(Level::Restricted, None, &pod), expect, "{pod}");
    }
}

#[test]
fn a_version_has_its_own_checks() {
    let probe = with(json!({"livenessProbe": {"tcpSocket": {"host": "h"}}}), json!({}));
    let sysctl = with(json!({}), json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}));
    let unmasked = with(json!({"securityContext": {"procMount": "Unmasked"}}), json!({"hostUsers": false}));
    for (what, pod, minor, refused) in [
        ("hosts of probes", &probe, 33, false),
        ("hosts of probes", &probe, 34, true),
        ("a sysctl", &sysctl, 31, true),
        ("a sysctl", &sysctl, 32, false),
        ("users of its own", &unmasked, 33, true),
        ("users of its own", &unmasked, 34, false),
        ("newer than all", &probe, 99, true),
    ] {
        assert_eq!(!of(Level::Baseline, Some(minor), pod).is_empty(), refused, "{what} {minor}");
    }
}

#[test]
fn namespaces_say_what_they_are_held_to() {
    let labels = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), Value::from(*value)));
        json!({"metadata": {"labels": pairs.collect::<serde_json::Map<_, _>>()}})
    };
    for (given, expect, wrong) in [
        (&[][..], ["privileged:latest"; 3], 0),
        (
            &[("enforce", "baseline"), ("enforce-version", "v1.25")],
            ["baseline:v1.25", "privileged:latest", "privileged:latest"],
            0,
        ),
        (&[("warn", "odd")], ["privileged:latest", "privileged:latest", "restricted:latest"], 1),
        (&[("audit-version", "1.2")], ["privileged:latest"; 3], 1),
        (
            &[("audit-version", "v1.02"), ("audit", "restricted")],
            ["privileged:latest", "restricted:latest", "privileged:latest"],
            1,
        ),
    ] {
        let (policy, errs) = Policy::of(&labels(given), Policy::default());
        let shown = [policy.enforce, policy.audit, policy.warn].map(|level| level.to_string());
        assert_eq!((shown.each_ref().map(String::as_str), errs.len()), (expect, wrong), "{given:?}");
    }
}

#[test]
fn pods_with_the_same_fault_are_told_together() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (pods, expect) in [
        (names(&["a"]), "a"),
        (names(&["b", "a"]), "a (and 1 other pod)"),
        (names(&["c", "b", "a"]), "a (and 2 other pods)"),
    ] {
        assert_eq!(among(&pods), expect);
    }
}
