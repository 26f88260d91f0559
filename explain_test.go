package kstage_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kstage/kstage"
)

func TestARefusedPermissionIsExplained(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed,
		kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
	} {
		got := kstage.Explain(err, `READ on topic "orders"`)
		require.ErrorContains(t, got, `grant READ on topic "orders"`)
		require.ErrorIs(t, got, err)
	}
	require.ErrorContains(t, kstage.Explain(kerr.FencedInstanceID, ""), "WithInstanceID")
	for _, err := range []error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState} {
		require.ErrorContains(t, kstage.Explain(err, ""), "WithSASL")
	}
	plain := errors.New("a wire was cut")
	require.Equal(t, plain, kstage.Explain(plain, "anything"), "nothing is added to what needs no explanation")
	require.NoError(t, kstage.Explain(nil, "anything"))
}
