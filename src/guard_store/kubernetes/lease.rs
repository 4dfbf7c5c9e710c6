//! The Lease that keeps the text, as JSON.

use serde_json::{Map, Value, json};

/// The annotation that keeps the text.
pub const ANNOTATION: &str = "ntlm-gateway/guard";

/// A Lease as the API has it. Everything in it besides the annotation belongs to others and is written back as it was
/// read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lease {
    object: Map<String, Value>,
}

impl Lease {
    /// Reads the Lease of this name from an answer.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(json: &[u8], name: &str) -> Result<Self, String> {
        let value = serde_json::from_slice(json).map_err(|error| format!("something that is not JSON ({error})"))?;
        Self::from_value(value, name)
    }

    /// The same for JSON that has been read already.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn from_value(value: Value, name: &str) -> Result<Self, String> {
        let Value::Object(object) = value else { return Err("JSON that is not an object".to_owned()) };
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if kind != "Lease" {
            return Err(format!("an object of the kind {kind:?} instead of a Lease"));
        }
        let lease = Self { object };
        if lease.metadata("name") != Some(name) {
            return Err(format!("a Lease that is not {name}"));
        }
        if lease.metadata("resourceVersion").is_none_or(str::is_empty) {
            return Err("a Lease without a resourceVersion".to_owned());
        }
        match lease.annotation() {
            None | Some(Value::String(_)) => Ok(lease),
            Some(_) => Err(format!("a Lease whose annotation {ANNOTATION} is no string")),
        }
    }

    /// The body that creates a Lease with this text.
    pub(super) fn creation(name: &str, namespace: &str, text: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": { "app.kubernetes.io/name": "ntlm-gateway" },
                "annotations": { ANNOTATION: text },
            },
            "spec": {},
        })
    }

    /// The body that replaces this Lease by one with another text. It contains the `resourceVersion` that was read, so
    /// the API rejects it if anybody has changed the Lease meanwhile, and the `uid`, so that a Lease which was deleted
    /// and created again is not taken for this one.
    pub(super) fn replacement(&self, text: &str) -> Value {
        let mut object = self.object.clone();
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if !metadata["annotations"].is_object() {
            metadata["annotations"] = json!({});
        }
        metadata["annotations"][ANNOTATION] = Value::String(text.to_owned());
        Value::Object(object)
    }

    /// The text; `None` if the Lease does not have the annotation.
    pub(super) fn text(&self) -> Option<&str> {
        self.annotation()?.as_str()
    }

    /// The `resourceVersion`.
    pub(super) fn version(&self) -> &str {
        self.metadata("resourceVersion").unwrap_or_default()
    }

    fn annotation(&self) -> Option<&Value> {
        self.object.get("metadata")?.get("annotations")?.get(ANNOTATION)
    }

    fn metadata(&self, field: &str) -> Option<&str> {
        self.object.get("metadata")?.get(field)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign() -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": "guard",
                "namespace": "egress",
                "uid": "6c0e",
                "resourceVersion": "17",
                "labels": { "team": "network" },
                "annotations": { "note": "do not delete", ANNOTATION: "old" },
                "ownerReferences": [{ "kind": "Deployment", "name": "ntlm-gateway" }],
                "managedFields": [{ "manager": "kubectl", "fieldsV1": { "f:metadata": {} } }],
            },
            "spec": { "holderIdentity": "somebody", "leaseDurationSeconds": 15 },
            "futureField": [1, 2],
        })
    }

    #[test]
    fn a_replacement_changes_nothing_but_the_annotation() {
        let lease = Lease::from_value(foreign(), "guard").expect("a Lease");
        assert_eq!((lease.text(), lease.version()), (Some("old"), "17"));
        let mut expected = foreign();
        expected["metadata"]["annotations"][ANNOTATION] = json!("new \"text\"");
        assert_eq!(lease.replacement("new \"text\""), expected);
    }

    #[test]
    fn a_lease_without_annotations_has_no_text_and_gets_one() {
        for annotations in [None, Some(Value::Null), Some(json!({ "note": "x" }))] {
            let mut object = foreign();
            match annotations.clone() {
                None => drop(object["metadata"].as_object_mut().expect("an object").remove("annotations")),
                Some(value) => object["metadata"]["annotations"] = value,
            }
            let lease = Lease::from_value(object, "guard").expect("a Lease");
            assert_eq!(lease.text(), None);
            let written = lease.replacement("new");
            assert_eq!(written["metadata"]["annotations"][ANNOTATION], "new");
            let note = annotations.as_ref().and_then(|annotations| annotations.get("note"));
            assert_eq!(written["metadata"]["annotations"].get("note"), note);
            assert_eq!(written["metadata"]["resourceVersion"], "17");
        }
    }

    #[test]
    fn a_created_lease_is_read_back_as_it_was_written() {
        let mut object = Lease::creation("guard", "egress", "text");
        object["metadata"]["resourceVersion"] = json!("1");
        let lease = Lease::parse(object.to_string().as_bytes(), "guard").expect("a Lease");
        assert_eq!((lease.text(), lease.version()), (Some("text"), "1"));
        assert_eq!(object["metadata"]["namespace"], "egress");
    }

    #[test]
    fn answers_that_are_no_lease_of_this_name_are_described() {
        let mut other = foreign();
        other["metadata"]["name"] = json!("other");
        let mut unversioned = foreign();
        unversioned["metadata"]["resourceVersion"] = json!("");
        let mut number = foreign();
        number["metadata"]["annotations"][ANNOTATION] = json!(1);
        for (json, expected) in [
            ("<html>".to_owned(), "something that is not JSON"),
            ("[]".to_owned(), "JSON that is not an object"),
            ("{}".to_owned(), "an object of the kind \"\""),
            (json!({ "kind": "LeaseList", "items": [] }).to_string(), "an object of the kind \"LeaseList\""),
            (other.to_string(), "a Lease that is not guard"),
            (unversioned.to_string(), "a Lease without a resourceVersion"),
            (number.to_string(), "a Lease whose annotation ntlm-gateway/guard is no string"),
        ] {
            let found = Lease::parse(json.as_bytes(), "guard").expect_err(&json);
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
