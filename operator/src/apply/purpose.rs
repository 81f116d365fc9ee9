//! Why we write, which the API server knows as who writes.

/// Why fields are written: each purpose is one field manager, so that no two of ours fight over a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Hub role: RegionStack in a member.
    HubStack,
    /// Hub role: the epoch floor of a RegionStack, which no other apply takes back.
    HubEpochs,
    /// Hub role: TenantPlacements in a member.
    HubPlacement,
    /// Hub role: IngestPool copies in a member.
    HubPool,
    /// Hub role: the policy Lease in a member.
    HubLease,
    /// Hub role: in the status of what people write, how far it is approved.
    HubApproval,
    /// Hub role: PrivacyIncidents, when they are opened.
    HubIncident,
    /// Hub role: webhook certificates and configuration.
    HubAdmission,
    /// Region role: what RegionStack asks for.
    RegionStack,
    /// Region role: certificates and credentials that are born here.
    RegionSecrets,
    /// Region role: writer Deployments of IngestPools (never `replicas`).
    RegionIngest,
    /// Region role: `replicas`, through the scale subresource.
    RegionScale,
    /// Region role: what tells another who scales (HorizontalPodAutoscaler, ScaledObject).
    RegionScaler,
    /// Region role: by which CA the metrics API is verified.
    RegionMetrics,
    /// Status subresources of our custom resources.
    Status,
}

impl Purpose {
    /// The field manager's name.
    #[must_use]
    pub const fn manager(self) -> &'static str {
        match self {
            Self::HubStack => "meridian-hub-stack",
            Self::HubEpochs => "meridian-hub-epochs",
            Self::HubPlacement => "meridian-hub-placement",
            Self::HubPool => "meridian-hub-pool",
            Self::HubLease => "meridian-hub-lease",
            Self::HubApproval => "meridian-hub-approval",
            Self::HubIncident => "meridian-hub-incident",
            Self::HubAdmission => "meridian-hub-admission",
            Self::RegionStack => "meridian-region-stack",
            Self::RegionSecrets => "meridian-region-secrets",
            Self::RegionIngest => "meridian-region-ingest",
            Self::RegionScale => "meridian-region-scale",
            Self::RegionScaler => "meridian-region-scaler",
            Self::RegionMetrics => "meridian-region-metrics",
            Self::Status => "meridian-status",
        }
    }

    /// Whether a region's operator makes its passes over what is written.
    pub(super) const fn is_told_a_region(self) -> bool {
        matches!(self, Self::HubStack | Self::HubPool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_purpose_has_a_field_manager_of_its_own() {
        use Purpose::*;
        let all = [
            HubStack,
            HubEpochs,
            HubPlacement,
            HubPool,
            HubLease,
            HubApproval,
            HubIncident,
            HubAdmission,
            RegionStack,
            RegionSecrets,
            RegionIngest,
            RegionScale,
            RegionScaler,
            RegionMetrics,
            Status,
        ];
        let names: BTreeSet<_> = all.iter().map(|p| p.manager()).collect();
        assert_eq!(names.len(), all.len());
    }
}
