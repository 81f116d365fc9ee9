//! What to do about a refusal, rule by rule. The sentence of a refusal says what is wrong here; this says what would help.

use meridian_policy::Rule;

/// What would help.
#[must_use]
pub const fn advice(rule: Rule) -> &'static str {
    match rule {
        Rule::HomeNamedAsTarget => "leave the home out of replicateTo: data that stays needs no edge",
        Rule::UnknownRegion => "apply the FitnessRegion first, or correct the region's name",
        Rule::UnknownClass => "use a class of the catalogue",
        Rule::UnknownJurisdiction => {
            "apply the Jurisdiction that the FitnessRegion names, or correct spec.jurisdiction"
        }
        Rule::UnknownParty => "apply the Party that the FitnessRegion names in spec.operatedBy, or correct it",
        Rule::ClassNotListed => {
            "leave this class at home; only the compliance team can add it to the mechanism's classes in the Jurisdiction, if the instrument covers it"
        }
        Rule::MechanismNotOffered => {
            "cite a mechanism and instrument that the home's Jurisdiction lists for the target's, word for word; if it lists none, the data stays at home"
        }
        Rule::MechanismNotInForce => "wait until the mechanism takes effect, or cite one that is in force",
        Rule::MechanismExpired => {
            "prolong spec.classes[].replicateTo[].expires if the tenant's own time has run out; if the mechanism itself has ended, cite one that is in force"
        }
        Rule::AssessmentMissing => {
            "assess the law and practice of the importer's country, and put the document's digest and review date into tia"
        }
        Rule::AssessmentStale => {
            "review the transfer impact assessment, and put the new digest and review date into tia"
        }
        Rule::DerogationNeverSystematic => {
            "cite a mechanism with safeguards (Adequacy, SCC, IDTA, BCR, Certification): a derogation is for single cases"
        }
        Rule::Art9ConditionMissing => {
            "name the condition of Art 9(2) that holds in art9Condition, or leave this class at home"
        }
        Rule::ConsentIsNotArt49 => {
            "cite a mechanism with safeguards: consent to share is not consent to a transfer without them"
        }
        Rule::FieldNotAllowed => "list only fields that the catalogue has for this class, and at least one",
        Rule::PurposeNotAllowed => "list what the data is used for in purposes",
        Rule::NoEdge => {
            "nobody asked for this edge: to open it, add the class and the region to replicateTo in the tenant's TenantDataResidency; data leaves from its home only"
        }
        Rule::PolicyStale => {
            "see with `kubectl meridian status` why the hub does not renew the policy's lease in the exporting region"
        }
        Rule::TenantUnknown => {
            "apply a TenantDataResidency of the same organization with its home in the target region; exactly one can receive"
        }
        Rule::PartyNotCertified => {
            "have the importing Party certified itself and put the certification into it, or cite another mechanism"
        }
        Rule::RetentionOutsideLaw => "choose a retention inside the Jurisdiction's minDays and maxDays",
        Rule::ConditionInvalid => {
            "correct condition: one Cedar expression over the attributes of context that policies/README.md lists"
        }
        Rule::ConditionNotMet => "only the tenant can change its own condition; what it refuses does not go",
        Rule::SubjectObjects => "nothing: the data subject's objection stands until they take it back",
        Rule::ProcessingRestricted => "nothing: the restriction stands until it is lifted for the data subject",
        Rule::Duplicate => "keep one of the two",
    }
}
