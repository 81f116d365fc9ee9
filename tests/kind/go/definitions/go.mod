module meridian.sh/tools/definitions

go 1.26.0

require (
	github.com/cloudnative-pg/cloudnative-pg v1.28.0
	github.com/kedacore/keda/v2 v2.20.2
)
