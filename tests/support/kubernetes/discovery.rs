//! What the API says about itself, which kubectl asks before anything else.

use serde_json::{Value, json};

/// The answer for a path of the discovery; `None` for other paths.
pub fn discovered(path: &str) -> Option<Value> {
    let version = json!({ "groupVersion": "coordination.k8s.io/v1", "version": "v1" });
    Some(match path {
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/api/v1" => {
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [] })
        }
        "/apis" => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [{ "name": "coordination.k8s.io", "versions": [version], "preferredVersion": version }],
        }),
        "/apis/coordination.k8s.io/v1" => json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": "coordination.k8s.io/v1",
            "resources": [{
                "name": "leases",
                "singularName": "lease",
                "namespaced": true,
                "kind": "Lease",
                "verbs": ["create", "get", "list", "update", "watch"],
            }],
        }),
        _ => return None,
    })
}
