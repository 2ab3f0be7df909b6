package podspec

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestValidateVolumes(t *testing.T) {
	// Each volume is called v.
	for volume, want := range map[string][]string{
		`"emptyDir":{"medium":"Memory","sizeLimit":"1"}`: nil,
		`"emptyDir":{"sizeLimit":"-1"}`:                  {`emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity`},
		`"emptyDir":{},"nfs":{}`:                         {`nfs: Forbidden: may not specify more than 1 volume type`},
		`"hostPath":{"path":"/a/../b","type":"x"}`: {`hostPath.path: Invalid value: "/a/../b": must not contain '..'`,
			`hostPath.type: Unsupported value: "x": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`},
		`"gitRepo":{"directory":"/a"}`:                       {`gitRepo.repository: Required value`, `gitRepo.directory: Invalid value: "/a": must be a relative path`},
		`"secret":{"secretName":"s","defaultMode":512}`:      {`secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive`},
		`"secret":{"items":[{"key":"k","path":"..x"}]}`:      {`secret.secretName: Required value`, `secret.items[0].path: Invalid value: "..x": must not start with '..'`},
		`"configMap":{"name":"c","items":[{"path":"a/.."}]}`: {`configMap.items[0].key: Required value`, `configMap.items[0].path: Invalid value: "a/..": must not contain '..'`},
		`"downwardAPI":{"items":[{"path":"p","fieldRef":{"fieldPath":"metadata.name"},"resourceFieldRef":{"resource":"limits.cpu"}}]}`: {
			`downwardAPI: Invalid value: "resource": fieldRef and resourceFieldRef can not be specified simultaneously`},
		`"downwardAPI":{"items":[{"path":"p"}]}`: {`downwardAPI: Required value: one of fieldRef and resourceFieldRef is required`},
		`"nfs":{"server":"s","path":"p"}`:        {`nfs.path: Invalid value: "p": must be an absolute path`},
		`"iscsi":{"targetPortal":"p","iqn":"x","lun":256,"chapAuthSession":true,"initiatorName":"naa.x"}`: {
			`iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa`,
			`iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive`,
			`iscsi.secretRef: Required value`,
			`iscsi.initiatorname: Invalid value: "naa.x": must be valid format`},
		`"iscsi":{"targetPortal":"p","iqn":"iqn.2001-04.com.example:disk","lun":0}`: nil,
		`"gcePersistentDisk":{"pdName":"d","partition":256}`:                        {`persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive`},
		`"awsElasticBlockStore":{}`:                                                 {`awsElasticBlockStore.volumeID: Required value`},
		`"flocker":{"datasetName":"a/b"}`:                                           {`flocker.datasetName: Invalid value: "a/b": must not contain '/'`},
		`"flocker":{"datasetName":"a","datasetUUID":"b"}`:                           {`flocker: Invalid value: "resource": datasetName and datasetUUID can not be specified simultaneously`},
		`"quobyte":{"registry":"r","volume":"v"}`:                                   {`quobyte.registry: Invalid value: "r": must be a host:port pair or multiple pairs separated by commas`},
		`"quobyte":{"registry":"r:1,s:2","volume":"v"}`:                             nil,
		`"fc":{"targetWWNs":["w"]}`:                                                 {`fc.lun: Required value: lun is required if targetWWNs is specified`},
		`"fc":{"targetWWNs":["w"],"wwids":["x"],"lun":1}`:                           {`fc.targetWWNs: Invalid value: ["w"]: targetWWNs and wwids can not be specified simultaneously`},
		`"flexVolume":{"driver":"d","options":{"a.k8s.io/b":"c"}}`:                  {`flexVolume.options[a.k8s.io/b]: Invalid value: "a.k8s.io/b": kubernetes.io and k8s.io namespaces are reserved`},
		`"azureDisk":{"diskName":"d","diskURI":"u","kind":"Managed","cachingMode":"x"}`: {
			`azureDisk.cachingMode: Unsupported value: "x": supported values: "None", "ReadOnly", "ReadWrite"`,
			`azureDisk.diskURI: Unsupported value: "u": supported values: "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"`},
		`"cinder":{"volumeID":"v","secretRef":{}}`:                             {`cinder.secretRef.name: Required value`},
		`"storageos":{"volumeName":"v","volumeNamespace":"N"}`:                 {`storageos.volumeNamespace: Invalid value: "N": ` + badLabel},
		`"csi":{"driver":"d.example.com","nodePublishSecretRef":{"name":"S"}}`: {`csi.name: Invalid value: "S": ` + badSubdomain},
		`"image":{}`:     {`image.reference: Required value`},
		`"projected":{}`: nil,
		`"projected":{"sources":[{"configMap":{},"secret":{"name":"s"}},{"serviceAccountToken":{"path":"/t","expirationSeconds":599}}]}`: {
			`projected.sources[0].configMap.name: Required value`,
			`projected.sources[0]: Forbidden: may not specify more than 1 volume type per source`,
			`projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`,
			`projected.path: Invalid value: "/t": must be a relative path`},
		`"projected":{"sources":[{"configMap":{"name":"c","items":[{"key":"k","path":"p"}]}},{"downwardAPI":{"items":[{"path":"p","fieldRef":{"fieldPath":"metadata.name"}}]}}]}`: {
			`projected: Invalid value: "p": conflicting duplicate paths`},
		`"projected":{"sources":[{"clusterTrustBundle":{"name":"a","path":"p"}},{"clusterTrustBundle":{"name":"example.com:s:b","path":"q"}},{"clusterTrustBundle":{"signerName":"example.com/s","labelSelector":{},"path":"r","optional":true}}]}`: nil,
		`"projected":{"sources":[{"clusterTrustBundle":{"name":"A","signerName":"example.com/s","path":"p"}},{"clusterTrustBundle":{"path":"../p"}},{"clusterTrustBundle":{"name":"example.com:B","labelSelector":{}}},{"clusterTrustBundle":{"signerName":"s","path":"s"}}]}`: {
			`projected.sources[0].clusterTrustBundle: Invalid value: {"Name":"A","SignerName":"example.com/s","LabelSelector":null,"Optional":null,"Path":"p","User":null}: only one of name and signerName may be used`,
			`projected.sources[1].clusterTrustBundle: Required value: either name or signerName must be specified`,
			`projected.sources[1].clusterTrustBundle.path: Invalid value: "../p": must not contain '..'`,
			`projected.sources[2].clusterTrustBundle.name: Invalid value: "example.com:B": not a valid clustertrustbundlename: ` + badSubdomain,
			`projected.sources[2].clusterTrustBundle.labelSelector: Invalid value: {}: labelSelector must be unset if name is specified`,
			`projected.sources[2].clusterTrustBundle.path: Required value`,
			`projected.sources[3].clusterTrustBundle.signerName: Invalid value: "s": must be a fully qualified domain and path of the form 'example.com/signer-name'`},
		`"projected":{"sources":[{"podCertificate":{"signerName":"example.com/s","keyType":"ED25519","keyPath":"k","certificateChainPath":"c","maxExpirationSeconds":7862400,"userAnnotations":{"example.com/A":"x"}}}]}`: nil,
		`"projected":{"sources":[{"podCertificate":{"signerName":"example.com/s","keyType":"DSA","maxExpirationSeconds":3599,"userAnnotations":{"a":"x"}}},{"podCertificate":{"signerName":"example.com/s","keyType":"RSA4096","keyPath":"k","maxExpirationSeconds":7862401}},{"podCertificate":{"signerName":"kubernetes.io/s","keyType":"RSA3072","credentialBundlePath":"k","maxExpirationSeconds":86401}}]}`: {
			`projected.sources[0].podCertificate.userAnnotations: Invalid value: "a": must be a domain-prefixed key (such as "acme.io/foo")`,
			`projected.sources[0].podCertificate.keyType: Unsupported value: "DSA": supported values: "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"`,
			`projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 3599: if provided, maxExpirationSeconds must be >= 3600`,
			`projected.sources[0].podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath`,
			`projected.sources[1].podCertificate.maxExpirationSeconds: Invalid value: 7862401: if provided, maxExpirationSeconds must be <= 7862400`,
			`projected.sources[2].podCertificate.maxExpirationSeconds: Invalid value: 86401: if provided, maxExpirationSeconds must be <= 86400`,
			`projected: Invalid value: "k": conflicting duplicate paths`},
		`"ephemeral":{"volumeClaimTemplate":{"spec":{"accessModes":["ReadWriteOncePod","ReadOnlyMany","x"],"resources":{"requests":{"storage":"0"}}}}}`: {
			`ephemeral.volumeClaimTemplate.spec.accessModes: Unsupported value: "x": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`,
			`ephemeral.volumeClaimTemplate.spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes`,
			`ephemeral.volumeClaimTemplate.spec.resources[storage]: Invalid value: "0": must be greater than zero`},
		`"ephemeral":{"volumeClaimTemplate":{"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1"}},"dataSource":{"kind":"X","name":"n"}}}}`: {
			`ephemeral.volumeClaimTemplate.spec.dataSource: Invalid value: "X": must be 'PersistentVolumeClaim' when referencing the default apiGroup`},
		`"ephemeral":{"volumeClaimTemplate":{"metadata":{"name":"a","uid":"u","labels":{"a":"b"},"ownerReferences":[{}],"finalizers":["a"]},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1"}}}}}`: {
			`ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set`,
			`ephemeral.volumeClaimTemplate.metadata.uID: Forbidden: cannot be set`,
			`ephemeral.volumeClaimTemplate.metadata.ownerReferences: Forbidden: cannot be set`,
			`ephemeral.volumeClaimTemplate.metadata.finalizers: Forbidden: cannot be set`},
		`"flocker":{"datasetName":"a/b","datasetUUID":"u"}`: {
			`flocker: Invalid value: "resource": datasetName and datasetUUID can not be specified simultaneously`,
			`flocker.datasetName: Invalid value: "a/b": must not contain '/'`},
		`"fc":{"targetWWNs":["a"],"wwids":["b"]}`: {
			`fc.targetWWNs: Invalid value: ["a"]: targetWWNs and wwids can not be specified simultaneously`,
			`fc.lun: Required value: lun is required if targetWWNs is specified`},
	} {
		got := complaints(t, `{"containers":[{"name":"c","image":"i"}],"serviceAccountName":"s","volumes":[{"name":"v",`+volume+`}]}`, Options{})
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], "spec.volumes[0].")
		}
		if len(got) != len(want) || !slices.Equal(got, want) {
			t.Errorf("%s:\n got\t%s\nwant\t%s", volume, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
}

func TestValidateVolumeList(t *testing.T) {
	runCases(t, []specCase{
		{name: "names", spec: `{"volumes":[{"name":"v"},{"name":"v"},{},{"name":"X"}]}`, want: []string{
			`spec.volumes[1].name: Duplicate value: "v"`, `spec.volumes[2].name: Required value`, `spec.volumes[3].name: Invalid value: "X": ` + badLabel,
		}},
		{name: "a token without an account", spec: `{"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}]}`, want: []string{
			`spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set`,
		}},
		{name: "mounts", spec: `{"volumes":[{"name":"v"},{"name":"p","persistentVolumeClaim":{"claimName":"c"}}],"containers":[{"name":"c","image":"i",
			"volumeMounts":[{"name":"v","mountPath":"/a","subPath":"/x"},{"name":"w","mountPath":"/a"},{"name":"v","mountPath":"/b","mountPropagation":"Bidirectional"},
				{"name":"v","mountPath":"/c","readOnly":true,"recursiveReadOnly":"Enabled","mountPropagation":"HostToContainer"},{"name":"v","mountPath":"/d","recursiveReadOnly":"x"}],
			"volumeDevices":[{"name":"p","devicePath":"/dev/x"},{"name":"p","devicePath":"/dev/x"},{"name":"v","devicePath":"a/../b"}]}]}`, want: []string{
			`spec.containers[0].volumeMounts[0].name: Invalid value: "v": must not already exist in volumeDevices`,
			`spec.containers[0].volumeMounts.subPath: Invalid value: "/x": must be a relative path`,
			`spec.containers[0].volumeMounts[1].name: Not found: "w"`,
			`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique`,
			`spec.containers[0].volumeMounts[2].name: Invalid value: "v": must not already exist in volumeDevices`,
			`spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers`,
			`spec.containers[0].volumeMounts[3].name: Invalid value: "v": must not already exist in volumeDevices`,
			`spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified`,
			`spec.containers[0].volumeMounts[4].name: Invalid value: "v": must not already exist in volumeDevices`,
			`spec.containers[0].volumeMounts.recursiveReadOnly: Unsupported value: "x": supported values: "Disabled", "Enabled", "IfPossible"`,
			`spec.containers[0].volumeDevices[1].name: Invalid value: "p": must be unique`,
			`spec.containers[0].volumeDevices[1].devicePath: Invalid value: "/dev/x": must be unique`,
			`spec.containers[0].volumeDevices[2].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode`,
			`spec.containers[0].volumeDevices[2].devicePath: Invalid value: "a/../b": can not contain backsteps ('..')`,
			`spec.containers[0].volumeDevices[2].name: Invalid value: "v": must not already exist in volumeMounts`,
		}},
	})
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, `{"containers":[{"name":"c","image":"i"}],"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"p-e"}},
		{"name":"e","ephemeral":{"volumeClaimTemplate":{"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1"}}}}}}]}`)}
	pod.Name = "p"
	SetPodDefaults(pod)
	errs := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, field.NewPath("spec"), Options{})
	if len(errs) != 1 || errs[0].Error() != `spec.volumes[0].persistentVolumeClaim.claimName: Invalid value: "p-e": must not reference a PVC that gets created for an ephemeral volume` {
		t.Errorf("got %v", errs)
	}
}

func TestValidateSecurity(t *testing.T) {
	runCases(t, []specCase{
		{name: "users", spec: `{"hostPID":true,"shareProcessNamespace":true,"securityContext":{"runAsGroup":-1,"supplementalGroups":[1,-1],"seLinuxChangePolicy":"x"}}`, want: []string{
			`spec.securityContext.runAsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`spec.securityContext.supplementalGroups[1]: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`spec.securityContext.seLinuxChangePolicy: Unsupported value: "x": supported values: "MountOption", "Recursive"`,
			`spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled`,
		}},
		{name: "sysctls", spec: `{"hostNetwork":true,"hostIPC":true,"securityContext":{"sysctls":[{"name":"net/core/x"},{"name":"net.core.x"},{"name":"kernel.sem"},{"name":"vm.x"}]}}`, want: []string{
			`spec.securityContext.sysctls[0].name: Invalid value: "net/core/x": may not be specified when 'hostNetwork' is true`,
			`spec.securityContext.sysctls[1].name: Duplicate value: "net.core.x"`,
			`spec.securityContext.sysctls[1].name: Invalid value: "net.core.x": may not be specified when 'hostNetwork' is true`,
			`spec.securityContext.sysctls[2].name: Invalid value: "kernel.sem": may not be specified when 'hostIPC' is true`,
		}},
		{name: "profiles", spec: `{"securityContext":{"seccompProfile":{},"appArmorProfile":{"type":"RuntimeDefault","localhostProfile":"x"}},
			"containers":[{"name":"c","image":"i","securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"../x"},"appArmorProfile":{"type":"Localhost","localhostProfile":" x"}}}]}`, want: []string{
			`spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: "../x": must not contain '..'`,
			`spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: " x": must not be padded with whitespace`,
			`spec.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set`,
			`spec.securityContext.appArmorProfile.localhostProfile: Invalid value: "x": can only be set when AppArmor type is Localhost`,
		}},
		{name: "unmasked proc", spec: `{"containers":[{"name":"c","image":"i","securityContext":{"procMount":"Unmasked"}}]}`, want: []string{
			"spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
		}},
		{name: "empty proc", spec: `{"containers":[{"name":"c","image":"i","securityContext":{"procMount":""}}]}`, want: []string{
			`spec.containers[0].securityContext.procMount: Unsupported value: "": supported values: "Default", "Unmasked"`,
		}},
		{name: "own users", spec: `{"hostUsers":false,"hostIPC":true,"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"c"}}],
			"initContainers":[{"name":"i","image":"i","volumeDevices":[{"name":"v","devicePath":"/d"}]}],"containers":[{"name":"c","image":"i","securityContext":{"procMount":"Unmasked"}}]}`, want: []string{
			"spec.HostIPC: Forbidden: when `hostUsers` is false",
			"spec.initContainers[0].volumeDevices: Forbidden: when `hostUsers` is false",
		}},
		{name: "linux", spec: `{"os":{"name":"linux"},"containers":[{"name":"c","image":"i","securityContext":{"windowsOptions":{}}}]}`, want: []string{
			`spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod`,
		}},
		{name: "windows", spec: `{"os":{"name":"windows"},"hostUsers":true,"shareProcessNamespace":true,"securityContext":{"sysctls":[{"name":"a"}]},
			"initContainers":[{"name":"i","image":"i","securityContext":{"runAsUser":1}}]}`, want: []string{
			`spec.securityContext.sysctls: Forbidden: cannot be set for a windows pod`,
			`spec.hostUsers: Forbidden: cannot be set for a windows pod`,
			`spec.shareProcessNamespace: Forbidden: cannot be set for a windows pod`,
			`spec.initContainers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod`,
		}},
		{name: "in the host", spec: `{"hostNetwork":true,"containers":[{"name":"a","image":"i","securityContext":{"windowsOptions":{"hostProcess":true}}},{"name":"b","image":"i"}]}`, want: []string{
			`spec: Invalid value: "": If pod contains any hostProcess containers then all containers must be HostProcess containers`,
		}},
		{name: "an odd system", spec: `{"os":{"name":"x"}}`, want: []string{`spec.os: Unsupported value: "x": supported values: "linux", "windows"`}},
	})
}

func TestWindowsUsers(t *testing.T) {
	for name, want := range map[string]string{
		"u": "", `d\u`: "", `long.domain.example\u`: "", "NT AUTHORITY": "",
		"":                       "runAsUserName cannot be an empty string",
		"a\tb":                   "runAsUserName cannot contain control characters",
		`a\b\c`:                  "runAsUserName cannot contain more than one backslash",
		`d\`:                     "runAsUserName's User cannot be empty",
		" . ":                    "runAsUserName's User cannot contain only periods or spaces",
		`a_b*c..\u`:              "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
		strings.Repeat("x", 105): "runAsUserName's User length must not be longer than 104 characters",
	} {
		errs := validateWindowsUser(name, nil)
		if (want == "") != (len(errs) == 0) || (want != "" && errs[0].Detail != want) {
			t.Errorf("%q: %v", name, errs)
		}
	}
}

func TestPodWarnings(t *testing.T) {
	pod := decode[corev1.Pod](t, `{"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"localhost/p","scheduler.alpha.kubernetes.io/critical-pod":""}},"spec":{
		"nodeSelector":{"beta.kubernetes.io/arch":"x"},"volumes":[{"name":"a","glusterfs":{}},{"name":"b","configMap":{"name":"m","items":[{"key":"k","path":"d"},{"key":"l","path":"d/e"}]}},
			{"name":"c","projected":{"sources":[{}]}}],
		"imagePullSecrets":[{}],"overhead":{"memory":"1m"},"dnsConfig":{"nameservers":["10.0.0.1","FD00::1"]},"hostAliases":[{"ip":"fd00:0::1"}],
		"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"1"},{"name":"A","value":"$(A)2"},{"name":"A","value":"3"}],"ports":[{"containerPort":1},{"containerPort":1,"hostPort":2}]}],
		"affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"z"}]}}}}`)
	ApplyAppArmorAnnotations(pod)
	if p := pod.Spec.Containers[0].SecurityContext.AppArmorProfile; p.Type != corev1.AppArmorProfileTypeLocalhost || *p.LocalhostProfile != "p" {
		t.Errorf("the annotation became %+v", p)
	}
	SetPodDefaults(pod)
	want := []string{
		`metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead`,
		`spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use "kubernetes.io/arch" instead`,
		`metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead`,
		`spec.volumes[0].glusterfs: deprecated in v1.25, non-functional in v1.26+`,
		`volume "b" (ConfigMap "m"): overlapping paths: "d/e" with "d"`,
		`volume "c" (Projected) has no sources provided`,
		`spec.imagePullSecrets[0].name: invalid empty name ""`,
		`spec.overhead[memory]: fractional byte value "1m" is invalid, must be an integer`,
		`spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply`,
		`spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]`,
		`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod`,
		`spec.dnsConfig.nameservers[1]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`,
		`spec.hostAliases[0].ip: IPv6 address "fd00:0::1" should be in RFC 5952 canonical format ("fd00::1")`,
	}
	if got := PodWarnings(pod); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
	}
	template := decode[corev1.PodTemplateSpec](t, `{"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"unconfined"}},"spec":{"containers":[{"name":"c"}],"terminationGracePeriodSeconds":-1}}`)
	want = []string{
		`t.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead`,
		`t.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1`,
	}
	if got := Warnings(template, nil, field.NewPath("t")); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
	}
}

func TestApplyLabelKeys(t *testing.T) {
	s := decode[corev1.PodSpec](t, `{"containers":null,"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"z","labelSelector":{},"matchLabelKeys":["a","b"],"mismatchLabelKeys":["c"]}}]}},
		"topologySpreadConstraints":[{"labelSelector":{},"matchLabelKeys":["c"]},{"matchLabelKeys":["c"]}]}`)
	want := decode[corev1.PodSpec](t, `{"containers":null,"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"z","labelSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["1"]},
		{"key":"c","operator":"NotIn","values":["3"]}]},"matchLabelKeys":["a","b"],"mismatchLabelKeys":["c"]}}]}},
		"topologySpreadConstraints":[{"labelSelector":{"matchExpressions":[{"key":"c","operator":"In","values":["3"]}]},"matchLabelKeys":["c"]},{"matchLabelKeys":["c"]}]}`)
	ApplyLabelKeys(s, map[string]string{"a": "1", "c": "3"})
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v", s)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "metadata.labels['a']", "x['", "net/ipv4.conf/a", "h:5000/a/b:1@sha256:00", `a\b`, "iqn.2001-04.com.example:x", "../a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if base, key, ok := splitSubscript(s); ok && base+"['"+key+"']" != s {
			t.Errorf("%q came apart as %q and %q", s, base, key)
		}
		if n := normalSysctl(s); normalSysctl(n) != n && !strings.HasPrefix(n, ".") {
			t.Errorf("%q: normal form of the normal form %q differs", s, n)
		}
		pullPolicy(s)
		validateWindowsUser(s, nil)
		ValidateISCSIName(s, true, nil)
		validateFilePath(s, nil)
		podCertificate := &corev1.PodCertificateProjection{SignerName: s, KeyPath: s}
		validatePodCertificate(podCertificate, nil)
	})
}

func BenchmarkPod(b *testing.B) {
	b.Run("default", func(b *testing.B) {
		b.ReportAllocs()
		pod := benchPod()
		for b.Loop() {
			SetPodDefaults(pod)
		}
	})
	b.Run("validate", func(b *testing.B) {
		b.ReportAllocs()
		pod := benchPod()
		SetPodDefaults(pod)
		p := field.NewPath("spec")
		for b.Loop() {
			if errs := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, p, Options{}); len(errs) > 0 {
				b.Fatal(errs)
			}
		}
	})
}

func benchPod() *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "a", Image: "x", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}, {Name: "b", Image: "x"}},
		Volumes:            []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}},
		ServiceAccountName: "s",
	}}
}

func TestAppArmorMatch(t *testing.T) {
	for _, tt := range []struct {
		name, pod, want string
	}{
		{"only the annotation", `{"spec":{"containers":[{"name":"c"}]},"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"unconfined"}}}`, ""},
		{"only the field", `{"spec":{"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"Unconfined"}}}]}}`, ""},
		{"the same", `{"spec":{"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"Localhost","localhostProfile":"p"}}}]},
			"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"localhost/p"}}}`, ""},
		{"another type", `{"spec":{"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"RuntimeDefault"}}}]},
			"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"unconfined"}}}`,
			"spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"},
		{"another profile", `{"spec":{"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"Localhost","localhostProfile":"p"}}}]},
			"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"localhost/q"}}}`,
			"spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match"},
		{"the field is the pod's", `{"spec":{"securityContext":{"appArmorProfile":{"type":"Unconfined"}},"initContainers":[{"name":"i"}]},
			"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/i":"localhost/q"}}}`,
			"spec.initContainers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"},
		{"Windows", `{"spec":{"os":{"name":"windows"},"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"RuntimeDefault"}}}]},
			"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/c":"unconfined"}}}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			for _, err := range ValidateAppArmorMatch(decode[corev1.Pod](t, tt.pod), field.NewPath("spec")) {
				got += err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}
