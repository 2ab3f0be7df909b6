package informers

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	appslisters "k8s.io/client-go/listers/apps/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	storagemigrationlisters "k8s.io/client-go/listers/storagemigration/v1"
)

// Groups and versions of the API. As in client-go, a kind is Group().Version().Resource(). What nobody calls is not linked.
type (
	coreGroup                  struct{ f *Factory }
	coreV1                     struct{ f *Factory }
	admissionregistrationGroup struct{ f *Factory }
	admissionregistrationV1    struct{ f *Factory }
	appsGroup                  struct{ f *Factory }
	appsV1                     struct{ f *Factory }
	autoscalingGroup           struct{ f *Factory }
	autoscalingV2              struct{ f *Factory }
	batchGroup                 struct{ f *Factory }
	batchV1                    struct{ f *Factory }
	certificatesGroup          struct{ f *Factory }
	certificatesV1             struct{ f *Factory }
	coordinationGroup          struct{ f *Factory }
	coordinationV1             struct{ f *Factory }
	discoveryGroup             struct{ f *Factory }
	discoveryV1                struct{ f *Factory }
	networkingGroup            struct{ f *Factory }
	networkingV1               struct{ f *Factory }
	nodeGroup                  struct{ f *Factory }
	nodeV1                     struct{ f *Factory }
	policyGroup                struct{ f *Factory }
	policyV1                   struct{ f *Factory }
	rbacGroup                  struct{ f *Factory }
	rbacV1                     struct{ f *Factory }
	resourceGroup              struct{ f *Factory }
	resourceV1                 struct{ f *Factory }
	schedulingGroup            struct{ f *Factory }
	schedulingV1               struct{ f *Factory }
	storageGroup               struct{ f *Factory }
	storageV1                  struct{ f *Factory }
	storagemigrationGroup      struct{ f *Factory }
	storagemigrationV1         struct{ f *Factory }
)

// Core is the API group.
func (f *Factory) Core() coreGroup { return coreGroup{f} }

// Admissionregistration is the API group.
func (f *Factory) Admissionregistration() admissionregistrationGroup {
	return admissionregistrationGroup{f}
}

// Apps is the API group.
func (f *Factory) Apps() appsGroup { return appsGroup{f} }

// Autoscaling is the API group.
func (f *Factory) Autoscaling() autoscalingGroup { return autoscalingGroup{f} }

// Batch is the API group.
func (f *Factory) Batch() batchGroup { return batchGroup{f} }

// Certificates is the API group.
func (f *Factory) Certificates() certificatesGroup { return certificatesGroup{f} }

// Coordination is the API group.
func (f *Factory) Coordination() coordinationGroup { return coordinationGroup{f} }

// Discovery is the API group.
func (f *Factory) Discovery() discoveryGroup { return discoveryGroup{f} }

// Networking is the API group.
func (f *Factory) Networking() networkingGroup { return networkingGroup{f} }

// Node is the API group.
func (f *Factory) Node() nodeGroup { return nodeGroup{f} }

// Policy is the API group.
func (f *Factory) Policy() policyGroup { return policyGroup{f} }

// Rbac is the API group.
func (f *Factory) Rbac() rbacGroup { return rbacGroup{f} }

// Resource is the API group.
func (f *Factory) Resource() resourceGroup { return resourceGroup{f} }

// Scheduling is the API group.
func (f *Factory) Scheduling() schedulingGroup { return schedulingGroup{f} }

// Storage is the API group.
func (f *Factory) Storage() storageGroup { return storageGroup{f} }

// Storagemigration is the API group.
func (f *Factory) Storagemigration() storagemigrationGroup { return storagemigrationGroup{f} }

func (g coreGroup) V1() coreV1 { return coreV1(g) }

func (v coreV1) ConfigMaps() Kind[corelisters.ConfigMapLister] {
	return Kind[corelisters.ConfigMapLister]{v.f, &corev1.ConfigMap{}, through(v.f.client.CoreV1().ConfigMaps("")), corelisters.NewConfigMapLister}
}

func (v coreV1) Endpoints() Kind[corelisters.EndpointsLister] {
	return Kind[corelisters.EndpointsLister]{v.f, &corev1.Endpoints{}, through(v.f.client.CoreV1().Endpoints("")), corelisters.NewEndpointsLister}
}

func (v coreV1) Events() Kind[corelisters.EventLister] {
	return Kind[corelisters.EventLister]{v.f, &corev1.Event{}, through(v.f.client.CoreV1().Events("")), corelisters.NewEventLister}
}

func (v coreV1) LimitRanges() Kind[corelisters.LimitRangeLister] {
	return Kind[corelisters.LimitRangeLister]{v.f, &corev1.LimitRange{}, through(v.f.client.CoreV1().LimitRanges("")), corelisters.NewLimitRangeLister}
}

func (v coreV1) Namespaces() Kind[corelisters.NamespaceLister] {
	return Kind[corelisters.NamespaceLister]{v.f, &corev1.Namespace{}, through(v.f.client.CoreV1().Namespaces()), corelisters.NewNamespaceLister}
}

func (v coreV1) Nodes() Kind[corelisters.NodeLister] {
	return Kind[corelisters.NodeLister]{v.f, &corev1.Node{}, through(v.f.client.CoreV1().Nodes()), corelisters.NewNodeLister}
}

func (v coreV1) PersistentVolumes() Kind[corelisters.PersistentVolumeLister] {
	return Kind[corelisters.PersistentVolumeLister]{v.f, &corev1.PersistentVolume{}, through(v.f.client.CoreV1().PersistentVolumes()), corelisters.NewPersistentVolumeLister}
}

func (v coreV1) PersistentVolumeClaims() Kind[corelisters.PersistentVolumeClaimLister] {
	return Kind[corelisters.PersistentVolumeClaimLister]{v.f, &corev1.PersistentVolumeClaim{}, through(v.f.client.CoreV1().PersistentVolumeClaims("")), corelisters.NewPersistentVolumeClaimLister}
}

func (v coreV1) Pods() Kind[corelisters.PodLister] {
	return Kind[corelisters.PodLister]{v.f, &corev1.Pod{}, through(v.f.client.CoreV1().Pods("")), corelisters.NewPodLister}
}

func (v coreV1) PodTemplates() Kind[corelisters.PodTemplateLister] {
	return Kind[corelisters.PodTemplateLister]{v.f, &corev1.PodTemplate{}, through(v.f.client.CoreV1().PodTemplates("")), corelisters.NewPodTemplateLister}
}

func (v coreV1) ReplicationControllers() Kind[corelisters.ReplicationControllerLister] {
	return Kind[corelisters.ReplicationControllerLister]{v.f, &corev1.ReplicationController{}, through(v.f.client.CoreV1().ReplicationControllers("")), corelisters.NewReplicationControllerLister}
}

func (v coreV1) ResourceQuotas() Kind[corelisters.ResourceQuotaLister] {
	return Kind[corelisters.ResourceQuotaLister]{v.f, &corev1.ResourceQuota{}, through(v.f.client.CoreV1().ResourceQuotas("")), corelisters.NewResourceQuotaLister}
}

func (v coreV1) Secrets() Kind[corelisters.SecretLister] {
	return Kind[corelisters.SecretLister]{v.f, &corev1.Secret{}, through(v.f.client.CoreV1().Secrets("")), corelisters.NewSecretLister}
}

func (v coreV1) Services() Kind[corelisters.ServiceLister] {
	return Kind[corelisters.ServiceLister]{v.f, &corev1.Service{}, through(v.f.client.CoreV1().Services("")), corelisters.NewServiceLister}
}

func (v coreV1) ServiceAccounts() Kind[corelisters.ServiceAccountLister] {
	return Kind[corelisters.ServiceAccountLister]{v.f, &corev1.ServiceAccount{}, through(v.f.client.CoreV1().ServiceAccounts("")), corelisters.NewServiceAccountLister}
}

func (g admissionregistrationGroup) V1() admissionregistrationV1 { return admissionregistrationV1(g) }

func (v admissionregistrationV1) ValidatingAdmissionPolicies() Kind[admissionlisters.ValidatingAdmissionPolicyLister] {
	return Kind[admissionlisters.ValidatingAdmissionPolicyLister]{v.f, &admissionv1.ValidatingAdmissionPolicy{}, through(v.f.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()), admissionlisters.NewValidatingAdmissionPolicyLister}
}

func (g appsGroup) V1() appsV1 { return appsV1(g) }

func (v appsV1) ControllerRevisions() Kind[appslisters.ControllerRevisionLister] {
	return Kind[appslisters.ControllerRevisionLister]{v.f, &appsv1.ControllerRevision{}, through(v.f.client.AppsV1().ControllerRevisions("")), appslisters.NewControllerRevisionLister}
}

func (v appsV1) DaemonSets() Kind[appslisters.DaemonSetLister] {
	return Kind[appslisters.DaemonSetLister]{v.f, &appsv1.DaemonSet{}, through(v.f.client.AppsV1().DaemonSets("")), appslisters.NewDaemonSetLister}
}

func (v appsV1) Deployments() Kind[appslisters.DeploymentLister] {
	return Kind[appslisters.DeploymentLister]{v.f, &appsv1.Deployment{}, through(v.f.client.AppsV1().Deployments("")), appslisters.NewDeploymentLister}
}

func (v appsV1) ReplicaSets() Kind[appslisters.ReplicaSetLister] {
	return Kind[appslisters.ReplicaSetLister]{v.f, &appsv1.ReplicaSet{}, through(v.f.client.AppsV1().ReplicaSets("")), appslisters.NewReplicaSetLister}
}

func (v appsV1) StatefulSets() Kind[appslisters.StatefulSetLister] {
	return Kind[appslisters.StatefulSetLister]{v.f, &appsv1.StatefulSet{}, through(v.f.client.AppsV1().StatefulSets("")), appslisters.NewStatefulSetLister}
}

func (g autoscalingGroup) V2() autoscalingV2 { return autoscalingV2(g) }

func (v autoscalingV2) HorizontalPodAutoscalers() Kind[autoscalinglisters.HorizontalPodAutoscalerLister] {
	return Kind[autoscalinglisters.HorizontalPodAutoscalerLister]{v.f, &autoscalingv2.HorizontalPodAutoscaler{}, through(v.f.client.AutoscalingV2().HorizontalPodAutoscalers("")), autoscalinglisters.NewHorizontalPodAutoscalerLister}
}

func (g batchGroup) V1() batchV1 { return batchV1(g) }

func (v batchV1) CronJobs() Kind[batchlisters.CronJobLister] {
	return Kind[batchlisters.CronJobLister]{v.f, &batchv1.CronJob{}, through(v.f.client.BatchV1().CronJobs("")), batchlisters.NewCronJobLister}
}

func (v batchV1) Jobs() Kind[batchlisters.JobLister] {
	return Kind[batchlisters.JobLister]{v.f, &batchv1.Job{}, through(v.f.client.BatchV1().Jobs("")), batchlisters.NewJobLister}
}

func (g certificatesGroup) V1() certificatesV1 { return certificatesV1(g) }

func (v certificatesV1) ClusterTrustBundles() Kind[certificateslisters.ClusterTrustBundleLister] {
	return Kind[certificateslisters.ClusterTrustBundleLister]{v.f, &certificatesv1.ClusterTrustBundle{}, through(v.f.client.CertificatesV1().ClusterTrustBundles()), certificateslisters.NewClusterTrustBundleLister}
}

func (v certificatesV1) PodCertificateRequests() Kind[certificateslisters.PodCertificateRequestLister] {
	return Kind[certificateslisters.PodCertificateRequestLister]{v.f, &certificatesv1.PodCertificateRequest{}, through(v.f.client.CertificatesV1().PodCertificateRequests("")), certificateslisters.NewPodCertificateRequestLister}
}

func (v certificatesV1) CertificateSigningRequests() Kind[certificateslisters.CertificateSigningRequestLister] {
	return Kind[certificateslisters.CertificateSigningRequestLister]{v.f, &certificatesv1.CertificateSigningRequest{}, through(v.f.client.CertificatesV1().CertificateSigningRequests()), certificateslisters.NewCertificateSigningRequestLister}
}

func (g coordinationGroup) V1() coordinationV1 { return coordinationV1(g) }

func (v coordinationV1) Leases() Kind[coordinationlisters.LeaseLister] {
	return Kind[coordinationlisters.LeaseLister]{v.f, &coordinationv1.Lease{}, through(v.f.client.CoordinationV1().Leases("")), coordinationlisters.NewLeaseLister}
}

func (g discoveryGroup) V1() discoveryV1 { return discoveryV1(g) }

func (v discoveryV1) EndpointSlices() Kind[discoverylisters.EndpointSliceLister] {
	return Kind[discoverylisters.EndpointSliceLister]{v.f, &discoveryv1.EndpointSlice{}, through(v.f.client.DiscoveryV1().EndpointSlices("")), discoverylisters.NewEndpointSliceLister}
}

func (g networkingGroup) V1() networkingV1 { return networkingV1(g) }

func (v networkingV1) Ingresses() Kind[networkinglisters.IngressLister] {
	return Kind[networkinglisters.IngressLister]{v.f, &networkingv1.Ingress{}, through(v.f.client.NetworkingV1().Ingresses("")), networkinglisters.NewIngressLister}
}

func (v networkingV1) IngressClasses() Kind[networkinglisters.IngressClassLister] {
	return Kind[networkinglisters.IngressClassLister]{v.f, &networkingv1.IngressClass{}, through(v.f.client.NetworkingV1().IngressClasses()), networkinglisters.NewIngressClassLister}
}

func (v networkingV1) IPAddresses() Kind[networkinglisters.IPAddressLister] {
	return Kind[networkinglisters.IPAddressLister]{v.f, &networkingv1.IPAddress{}, through(v.f.client.NetworkingV1().IPAddresses()), networkinglisters.NewIPAddressLister}
}

func (v networkingV1) NetworkPolicies() Kind[networkinglisters.NetworkPolicyLister] {
	return Kind[networkinglisters.NetworkPolicyLister]{v.f, &networkingv1.NetworkPolicy{}, through(v.f.client.NetworkingV1().NetworkPolicies("")), networkinglisters.NewNetworkPolicyLister}
}

func (v networkingV1) ServiceCIDRs() Kind[networkinglisters.ServiceCIDRLister] {
	return Kind[networkinglisters.ServiceCIDRLister]{v.f, &networkingv1.ServiceCIDR{}, through(v.f.client.NetworkingV1().ServiceCIDRs()), networkinglisters.NewServiceCIDRLister}
}

func (g nodeGroup) V1() nodeV1 { return nodeV1(g) }

func (v nodeV1) RuntimeClasses() Kind[nodelisters.RuntimeClassLister] {
	return Kind[nodelisters.RuntimeClassLister]{v.f, &nodev1.RuntimeClass{}, through(v.f.client.NodeV1().RuntimeClasses()), nodelisters.NewRuntimeClassLister}
}

func (g policyGroup) V1() policyV1 { return policyV1(g) }

func (v policyV1) PodDisruptionBudgets() Kind[policylisters.PodDisruptionBudgetLister] {
	return Kind[policylisters.PodDisruptionBudgetLister]{v.f, &policyv1.PodDisruptionBudget{}, through(v.f.client.PolicyV1().PodDisruptionBudgets("")), policylisters.NewPodDisruptionBudgetLister}
}

func (g rbacGroup) V1() rbacV1 { return rbacV1(g) }

func (v rbacV1) ClusterRoles() Kind[rbaclisters.ClusterRoleLister] {
	return Kind[rbaclisters.ClusterRoleLister]{v.f, &rbacv1.ClusterRole{}, through(v.f.client.RbacV1().ClusterRoles()), rbaclisters.NewClusterRoleLister}
}

func (v rbacV1) ClusterRoleBindings() Kind[rbaclisters.ClusterRoleBindingLister] {
	return Kind[rbaclisters.ClusterRoleBindingLister]{v.f, &rbacv1.ClusterRoleBinding{}, through(v.f.client.RbacV1().ClusterRoleBindings()), rbaclisters.NewClusterRoleBindingLister}
}

func (v rbacV1) Roles() Kind[rbaclisters.RoleLister] {
	return Kind[rbaclisters.RoleLister]{v.f, &rbacv1.Role{}, through(v.f.client.RbacV1().Roles("")), rbaclisters.NewRoleLister}
}

func (v rbacV1) RoleBindings() Kind[rbaclisters.RoleBindingLister] {
	return Kind[rbaclisters.RoleBindingLister]{v.f, &rbacv1.RoleBinding{}, through(v.f.client.RbacV1().RoleBindings("")), rbaclisters.NewRoleBindingLister}
}

func (g resourceGroup) V1() resourceV1 { return resourceV1(g) }

func (v resourceV1) DeviceClasses() Kind[resourcelisters.DeviceClassLister] {
	return Kind[resourcelisters.DeviceClassLister]{v.f, &resourcev1.DeviceClass{}, through(v.f.client.ResourceV1().DeviceClasses()), resourcelisters.NewDeviceClassLister}
}

func (v resourceV1) DeviceTaintRules() Kind[resourcelisters.DeviceTaintRuleLister] {
	return Kind[resourcelisters.DeviceTaintRuleLister]{v.f, &resourcev1.DeviceTaintRule{}, through(v.f.client.ResourceV1().DeviceTaintRules()), resourcelisters.NewDeviceTaintRuleLister}
}

func (v resourceV1) ResourceClaims() Kind[resourcelisters.ResourceClaimLister] {
	return Kind[resourcelisters.ResourceClaimLister]{v.f, &resourcev1.ResourceClaim{}, through(v.f.client.ResourceV1().ResourceClaims("")), resourcelisters.NewResourceClaimLister}
}

func (v resourceV1) ResourceClaimTemplates() Kind[resourcelisters.ResourceClaimTemplateLister] {
	return Kind[resourcelisters.ResourceClaimTemplateLister]{v.f, &resourcev1.ResourceClaimTemplate{}, through(v.f.client.ResourceV1().ResourceClaimTemplates("")), resourcelisters.NewResourceClaimTemplateLister}
}

func (v resourceV1) ResourceSlices() Kind[resourcelisters.ResourceSliceLister] {
	return Kind[resourcelisters.ResourceSliceLister]{v.f, &resourcev1.ResourceSlice{}, through(v.f.client.ResourceV1().ResourceSlices()), resourcelisters.NewResourceSliceLister}
}

func (g schedulingGroup) V1() schedulingV1 { return schedulingV1(g) }

func (v schedulingV1) PriorityClasses() Kind[schedulinglisters.PriorityClassLister] {
	return Kind[schedulinglisters.PriorityClassLister]{v.f, &schedulingv1.PriorityClass{}, through(v.f.client.SchedulingV1().PriorityClasses()), schedulinglisters.NewPriorityClassLister}
}

func (g storageGroup) V1() storageV1 { return storageV1(g) }

func (v storageV1) CSIDrivers() Kind[storagelisters.CSIDriverLister] {
	return Kind[storagelisters.CSIDriverLister]{v.f, &storagev1.CSIDriver{}, through(v.f.client.StorageV1().CSIDrivers()), storagelisters.NewCSIDriverLister}
}

func (v storageV1) CSINodes() Kind[storagelisters.CSINodeLister] {
	return Kind[storagelisters.CSINodeLister]{v.f, &storagev1.CSINode{}, through(v.f.client.StorageV1().CSINodes()), storagelisters.NewCSINodeLister}
}

func (v storageV1) CSIStorageCapacities() Kind[storagelisters.CSIStorageCapacityLister] {
	return Kind[storagelisters.CSIStorageCapacityLister]{v.f, &storagev1.CSIStorageCapacity{}, through(v.f.client.StorageV1().CSIStorageCapacities("")), storagelisters.NewCSIStorageCapacityLister}
}

func (v storageV1) StorageClasses() Kind[storagelisters.StorageClassLister] {
	return Kind[storagelisters.StorageClassLister]{v.f, &storagev1.StorageClass{}, through(v.f.client.StorageV1().StorageClasses()), storagelisters.NewStorageClassLister}
}

func (v storageV1) VolumeAttachments() Kind[storagelisters.VolumeAttachmentLister] {
	return Kind[storagelisters.VolumeAttachmentLister]{v.f, &storagev1.VolumeAttachment{}, through(v.f.client.StorageV1().VolumeAttachments()), storagelisters.NewVolumeAttachmentLister}
}

func (v storageV1) VolumeAttributesClasses() Kind[storagelisters.VolumeAttributesClassLister] {
	return Kind[storagelisters.VolumeAttributesClassLister]{v.f, &storagev1.VolumeAttributesClass{}, through(v.f.client.StorageV1().VolumeAttributesClasses()), storagelisters.NewVolumeAttributesClassLister}
}

func (g storagemigrationGroup) V1() storagemigrationV1 { return storagemigrationV1(g) }

func (v storagemigrationV1) StorageVersionMigrations() Kind[storagemigrationlisters.StorageVersionMigrationLister] {
	return Kind[storagemigrationlisters.StorageVersionMigrationLister]{v.f, &storagemigrationv1.StorageVersionMigration{}, through(v.f.client.StoragemigrationV1().StorageVersionMigrations()), storagemigrationlisters.NewStorageVersionMigrationLister}
}
