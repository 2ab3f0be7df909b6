// Package attachdetach keeps the VolumeAttachments of CSI volumes: one for each volume and node with pods that need it, unless the volume's driver needs
// none. A volume is detached when no pod on the node needs it and the node says that it is unmounted; of a node that is not ready that is believed
// after a while, and of one marked as out of service at once.
//
// One step looks at one node: decide is a function of the node, its pods' volumes and the attachments. What an attachment means is known to the
// driver's attacher outside, which sets its status.
package attachdetach
